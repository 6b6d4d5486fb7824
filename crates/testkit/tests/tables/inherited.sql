-- Inheritance: rows of the tables below, keys of each table alone, two parents, sequences of the parent, columns and constraints that
-- come and go above.
--- tables: place
--- also: kind, city, capital, port, town
CREATE TABLE place (id serial PRIMARY KEY, name text NOT NULL, height int CHECK (height > -1000));
CREATE TABLE kind (what text DEFAULT 'none');
CREATE TABLE city (people int, PRIMARY KEY (id)) INHERITS (place);
CREATE TABLE capital (state text UNIQUE) INHERITS (city);
CREATE TABLE port (berths int) INHERITS (place, kind);
CREATE TABLE town (junk int, n int) INHERITS (place);
ALTER TABLE town DROP COLUMN junk;
CREATE UNIQUE INDEX ON town (lower(name)) WHERE n > 0;
ALTER TABLE place ADD COLUMN late text DEFAULT 'late';
CREATE FUNCTION note_place() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.name LIKE '%!' THEN new.name := new.name || tg_op; END IF; RETURN new; END $$;
CREATE TRIGGER note_place BEFORE INSERT OR UPDATE ON city FOR EACH ROW EXECUTE FUNCTION note_place();
CREATE RULE routed AS ON INSERT TO place WHERE new.name LIKE 'rule%' DO INSTEAD INSERT INTO town (id, name) VALUES (new.id, new.name);

--- run

INSERT INTO place (id, name) VALUES (1, 'hill'); INSERT INTO city (id, name, people) VALUES (1, 'Linz!', 200), (2, 'Graz', 300); INSERT INTO capital (id, name, state) VALUES (1, 'Wien', 'AT'), (3, 'Bern', 'CH'); INSERT INTO port (id, name, what, berths) VALUES (4, 'Genua', 'sea', 9); INSERT INTO town (id, name, n) VALUES (5, 'Hall', 1)

SELECT tableoid::regclass, * FROM place ORDER BY id, name

UPDATE place SET height = id * 10 WHERE id < 3 RETURNING tableoid::regclass, id, height

UPDATE ONLY city SET height = 1, name = 'Graz!' WHERE id = 2 RETURNING *

DELETE FROM city WHERE id = 1 RETURNING tableoid::regclass, name

INSERT INTO town (id, name, n) VALUES (6, 'HALL', 0), (1, 'twice', 0) RETURNING *

INSERT INTO town (id, name, n) VALUES (6, 'HALL', 2)

INSERT INTO place (name, id) VALUES ('rule', 20), ('none', 21); SELECT tableoid::regclass, id, name FROM place WHERE id >= 20 ORDER BY id

BEGIN; UPDATE place SET name = name || '.'; SAVEPOINT s; DELETE FROM place; ROLLBACK TO s; DELETE FROM ONLY place WHERE id > 20; COMMIT

MERGE INTO ONLY city USING (VALUES (2), (9)) s (i) ON id = i WHEN MATCHED THEN UPDATE SET people = 1 WHEN NOT MATCHED THEN INSERT (id, name) VALUES (i, 'merged')

INSERT INTO capital (id, name, state) VALUES (30, 'x', 'AT') ON CONFLICT (state) DO UPDATE SET name = 'again', people = 5 RETURNING *

SELECT id, name FROM place WHERE id = 3 FOR UPDATE; WITH gone AS (DELETE FROM port RETURNING *) INSERT INTO town (id, name, n, late) SELECT id + 100, name, berths, late FROM gone RETURNING *

UPDATE place SET height = -5000 WHERE id = 3

COPY city (id, name) FROM PROGRAM 'printf "40\tcopied\n"'; SELECT tableoid::regclass, count(*) FROM place GROUP BY 1 ORDER BY 1

UPDATE kind SET what = 'land'; INSERT INTO kind VALUES ('alone'); INSERT INTO port (id, name) VALUES (50, 'Triest'); UPDATE kind SET what = what || '!' RETURNING tableoid::regclass, what

BEGIN; TRUNCATE place; SELECT count(*) FROM place; ROLLBACK; SELECT count(*) FROM place
