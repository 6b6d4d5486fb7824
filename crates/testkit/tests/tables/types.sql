-- Columns of all types: written, changed, unchanged, compared.
--- tables: scalars, made, nested, large
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE point3 AS (x int, y numeric, "the z" text);
CREATE TYPE pair AS (a point3, m mood[]);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN code AS text COLLATE "C" NOT NULL CHECK (VALUE ~ '^[A-Z]+$');
CREATE DOMAIN codes AS code[] CHECK (array_length(VALUE, 1) < 4);
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TABLE scalars (
    id bigint PRIMARY KEY, b bool, s smallint, r real, d double precision, n numeric, m money, c char(5), v varchar(10), t text,
    ba bytea, dt date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid, j json, jb jsonb, x bit(4), vb bit varying,
    i inet, ci cidr, ma macaddr, p point, po polygon, l pg_lsn, tv tsvector, tq tsquery, q "char", na name, jp jsonpath, xid xid8);
CREATE TABLE made (id positive PRIMARY KEY, m mood, c code, cs codes, p point3, pp pair, ir int4range, mr int8multirange, s span, sm span_multirange,
    mm mood[], UNIQUE (m, c));
CREATE TABLE nested (id int PRIMARY KEY, a int[], t text[][], ja jsonb[], pa point3[], ra int4range[], da positive[], na numeric[], ta timestamptz[]);
CREATE TABLE large (id int PRIMARY KEY, t text, b bytea, j jsonb, plain text, n int DEFAULT 0);
ALTER TABLE large ALTER b SET STORAGE EXTERNAL, ALTER plain SET STORAGE PLAIN;

--- run

INSERT INTO scalars VALUES (1, true, -1, 1.5, 'NaN', 1234567890.123456789, 12.34, 'ab', 'var', 'täxt', '\x00ff', '2024-02-29', '12:34:56.789', '12:34+05:30',
    '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+02', '1 year 2 mons 3 days 04:05:06.7', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1, "a": 2}', '{"b": [1, null, "x"]}',
    '1010', '101', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '(1,2)', '((0,0),(1,1),(1,0))', '16/B374D848', 'a:1 b:2', 'a & !b', 'q', 'a name', '$.a[*] ? (@ > 1)', '42')

INSERT INTO scalars (id, d, r, n, ts, tstz, dt, iv) VALUES (2, 'Infinity', '-Infinity', 'NaN', 'infinity', '-infinity', 'infinity', '-1 days +1 hour'), (3, '-0', 1e-38, '-1e-100', '4713-01-01 BC', '294276-12-31', '4713-01-01 BC', '178000000 years')

INSERT INTO scalars (id) VALUES (4)

INSERT INTO scalars (id, d, n, r) VALUES (5, 0.1, 1.10, 0.1), (6, 1e300, 1e1000, 3.4e38)

BEGIN; SET LOCAL extra_float_digits = -5; SET LOCAL DateStyle = 'SQL, DMY'; SET LOCAL IntervalStyle = 'sql_standard'; SET LOCAL TimeZone = 'Asia/Kolkata'; SET LOCAL bytea_output = 'escape'; SET LOCAL search_path = types; UPDATE scalars SET d = d, tstz = tstz + '1 day', iv = iv * 2, t = coalesce(t, '') || '!' WHERE id < 3; COMMIT

UPDATE scalars SET n = n + 0.000 WHERE id = 5

SELECT id, d, n, tstz AT TIME ZONE 'UTC', iv, m::numeric FROM scalars ORDER BY id

INSERT INTO made VALUES (1, 'ok', 'ABC', '{A,B}', '(1,2.50,"a ""b"", c")', ROW(ROW(1, 2, NULL)::point3, '{sad,happy}'), '[1,5)', '{[1,2), [5,9)}', '[0.1,0.2]', '{[1,2], (3,4)}', '{ok}')

INSERT INTO made VALUES (2, 'happy', 'ABC', NULL, NULL, NULL, 'empty', '{}', '(,)', NULL, '{}'), (3, NULL, 'X', '{}', '(,,)', '(,)', '(,5]', NULL, NULL, NULL, NULL)

INSERT INTO made (id, m, c) VALUES (4, 'happy', 'ABC')

INSERT INTO made (id, c) VALUES (0, 'A')

INSERT INTO made (id, c) VALUES (9, 'a')

INSERT INTO made (id) VALUES (9)

UPDATE made SET m = 'sad', p.x = 7, pp.a.y = 1.50, cs[2] = 'Q' WHERE id IN (1, 3)

UPDATE made SET id = id + 10

SELECT * FROM made ORDER BY id

INSERT INTO nested VALUES (1, '{1,2,NULL}', '{{a,b},{"c d",NULL}}', ARRAY['{"a":1}', 'null']::jsonb[], ARRAY[ROW(1, 2, 'x')::point3], '{"[1,2)",empty}', '{1,2}', '{1.10,NaN}', '{2024-01-01 00:00+02}'),
    (2, '[0:1]={7,8}', '{}', NULL, '{}', NULL, NULL, NULL, NULL)

UPDATE nested SET a[5] = 5, pa[1].y = 3.00, t = t || '{{e,f}}' WHERE id = 1

UPDATE nested SET a = a || 9, ta = array_append(ta, '2024-06-01 UTC')

SELECT * FROM nested ORDER BY id

INSERT INTO large SELECT i, repeat(md5(i::text), 100 * i), decode(repeat(md5(i::text), 200 * i), 'hex'), jsonb_build_object('k', repeat('v', 3000 * i)), 'plain' FROM generate_series(1, 20) i

UPDATE large SET n = n + 1

UPDATE large SET t = t || 'x' WHERE id % 3 = 0

UPDATE large SET id = -id, n = 0 WHERE id % 5 = 0

UPDATE large SET j = jsonb_set(j, '{k}', '1') WHERE id % 4 = 0

BEGIN; UPDATE large SET b = NULL WHERE id = 1; UPDATE large SET n = 9 WHERE id = 1; SAVEPOINT s; UPDATE large SET t = NULL WHERE id = 2; ROLLBACK TO s; UPDATE large SET n = 8 WHERE id = 2; COMMIT

INSERT INTO large (id, t) VALUES (100, repeat('y', 20000000)); INSERT INTO large (id, b) SELECT 101, string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 500000) i

UPDATE large SET n = 5 WHERE id >= 100

SELECT id, md5(t), md5(b), md5(j::text), n FROM large ORDER BY id
