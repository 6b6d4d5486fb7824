-- Types of extensions.
--- tables: who, paths, bags, sets, overlap, shapes
CREATE EXTENSION IF NOT EXISTS citext;
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE EXTENSION IF NOT EXISTS intarray;
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS cube;
CREATE EXTENSION IF NOT EXISTS isn;
CREATE TABLE who (email citext PRIMARY KEY, id uuid UNIQUE DEFAULT gen_random_uuid(), v int);
CREATE TABLE paths (path ltree PRIMARY KEY, q lquery, parent ltree REFERENCES paths ON UPDATE CASCADE);
CREATE TABLE bags (id int PRIMARY KEY, h hstore, t text);
CREATE INDEX ON bags USING gin (h);
CREATE INDEX ON bags USING gist (t gist_trgm_ops);
CREATE TABLE sets (id int PRIMARY KEY, a int[]);
CREATE INDEX ON sets USING gist (a gist__int_ops);
CREATE TABLE overlap (room int, during tsrange, EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE TABLE shapes (id isbn13 PRIMARY KEY, c cube);

--- run

INSERT INTO who (email, id, v) VALUES ('Ann@x', md5('1')::uuid, 1), ('Bob@x', md5('2')::uuid, 2)

INSERT INTO who (email, v) VALUES ('ANN@X', 3)

INSERT INTO who (email, v) VALUES ('ANN@X', 3) ON CONFLICT (email) DO UPDATE SET v = 30, email = excluded.email RETURNING email, v

UPDATE who SET v = v + 1 WHERE email = 'bob@X'; DELETE FROM who WHERE email = 'ann@x'

INSERT INTO paths VALUES ('a', 'a.*', NULL), ('a.b', NULL, 'a'), ('a.b.c', '*.b{1,}', 'a.b')

UPDATE paths SET path = 'z' || subpath(path, 0, 1) WHERE path = 'a'

DELETE FROM paths WHERE path <@ 'a.b.c'

INSERT INTO bags VALUES (1, 'a=>1, b=>NULL', 'hello'), (2, '"x y"=>"z, \"q\""', 'world')

UPDATE bags SET h = h || 'n=>2', t = t || '!' WHERE h ? 'a'

UPDATE bags SET t = 'only t'

INSERT INTO sets VALUES (1, '{3,1,2}'), (2, '{}'); UPDATE sets SET a = sort(a) WHERE id = 1

INSERT INTO overlap VALUES (1, '[2024-01-01,2024-01-02)'), (2, '[2024-01-01,2024-01-02)')

INSERT INTO overlap VALUES (1, '[2024-01-01 12:00,2024-01-03)')

UPDATE overlap SET room = 3 - room

INSERT INTO shapes VALUES ('978-0-393-04002-9', '(1,2),(3,4)'); UPDATE shapes SET c = cube_enlarge(c, 1, 2)

TABLE who ORDER BY email; TABLE paths ORDER BY path; TABLE bags ORDER BY id; TABLE sets ORDER BY id; TABLE overlap ORDER BY room; TABLE shapes
