-- Keys of all kinds.
--- tables: expressions, partial, nulls, deferred, excluded, keyless, included, classes, many, only_unique, hashed
CREATE TABLE expressions (id int PRIMARY KEY, a text, b text);
CREATE UNIQUE INDEX ON expressions (lower(a), (b || '!'));
CREATE TABLE partial (id int PRIMARY KEY, live bool, name text);
CREATE UNIQUE INDEX ON partial (name) WHERE live;
CREATE TABLE nulls (id int PRIMARY KEY, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b));
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, pos int NOT NULL UNIQUE DEFERRABLE, v text);
CREATE TABLE excluded (room int, during int4range, v int, EXCLUDE USING gist (during WITH &&));
CREATE TABLE keyless (a int, b text);
CREATE TABLE included (id int, a int, b text, PRIMARY KEY (id) INCLUDE (b), UNIQUE (a) INCLUDE (b));
CREATE TABLE classes (id int PRIMARY KEY, t text);
CREATE UNIQUE INDEX ON classes (t text_pattern_ops DESC NULLS FIRST);
CREATE TABLE many (a int, b text, c uuid, d date, e numeric, v int, PRIMARY KEY (a, b, c, d, e));
CREATE TABLE only_unique (a int NOT NULL UNIQUE, b int UNIQUE, v int);
CREATE TABLE hashed (id int, v int);
CREATE INDEX ON hashed USING hash (id);

--- run

INSERT INTO expressions VALUES (1, 'Ab', 'x'), (2, 'AB', 'y'), (3, NULL, 'x'), (4, NULL, 'x')

INSERT INTO expressions VALUES (5, 'aB', 'x')

INSERT INTO expressions VALUES (5, 'aB', 'x') ON CONFLICT (lower(a), (b || '!')) DO UPDATE SET b = 'z' RETURNING id

UPDATE expressions SET a = upper(a), b = CASE b WHEN 'z' THEN 'y' ELSE 'z' END WHERE a IS NOT NULL

UPDATE expressions SET a = lower(a)

INSERT INTO partial VALUES (1, true, 'a'), (2, false, 'a'), (3, false, 'a')

UPDATE partial SET live = NOT live WHERE id = 2

UPDATE partial SET live = NOT live WHERE id = 1

UPDATE partial SET live = true WHERE id = 2

INSERT INTO partial VALUES (4, true, 'a') ON CONFLICT (name) WHERE live DO UPDATE SET name = 'b' RETURNING *

INSERT INTO nulls VALUES (1, NULL, NULL), (2, 1, NULL), (3, NULL, 1)

INSERT INTO nulls VALUES (4, NULL, NULL)

DELETE FROM nulls WHERE id = 1; INSERT INTO nulls VALUES (4, NULL, NULL)

UPDATE nulls SET a = coalesce(a, 0) + 1 WHERE id <> 4

BEGIN; INSERT INTO deferred SELECT i, i FROM generate_series(1, 5) i; UPDATE deferred SET id = id + 1; UPDATE deferred SET pos = 6 - pos; COMMIT

BEGIN; INSERT INTO deferred VALUES (2, 10); UPDATE deferred SET id = 1 WHERE pos = 10; COMMIT

BEGIN; INSERT INTO deferred VALUES (2, 11); COMMIT

ROLLBACK

UPDATE deferred SET pos = pos + 1

UPDATE deferred SET id = 7 - id, v = 'swapped' WHERE id IN (3, 4)

DELETE FROM deferred WHERE id = 6

INSERT INTO excluded VALUES (1, '[1,5)', 0), (1, '[5,8)', 0)

INSERT INTO excluded VALUES (1, '[4,6)', 0)

UPDATE excluded SET during = '[10,12)', v = 1 WHERE during @> 1

UPDATE excluded SET v = v + 1

DELETE FROM excluded WHERE during @> 5

INSERT INTO excluded VALUES (2, '[4,6)', 0) ON CONFLICT DO NOTHING

INSERT INTO keyless SELECT i % 3, 'b' FROM generate_series(1, 10) i

UPDATE keyless SET b = 'c' WHERE a = 1

DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 2)

UPDATE keyless SET a = NULL WHERE a = 0

INSERT INTO included VALUES (1, 1, 'a'), (2, 2, 'b')

UPDATE included SET b = 'c' WHERE id = 1; UPDATE included SET a = 3 - a WHERE id = 1

UPDATE included SET a = a + 10, b = b || '!'

INSERT INTO classes VALUES (1, 'x'), (2, 'y')

UPDATE classes SET t = CASE t WHEN 'x' THEN 'z' ELSE 'x' END

INSERT INTO classes VALUES (3, 'x')

INSERT INTO many SELECT i, 'b' || i, md5(i::text)::uuid, '2024-01-01'::date + i, i + 0.50, i FROM generate_series(1, 10) i

UPDATE many SET v = v + 1 WHERE e > 5; UPDATE many SET e = e + 0.00 WHERE a = 3; UPDATE many SET b = upper(b) WHERE a < 3; DELETE FROM many WHERE d = '2024-01-05'

INSERT INTO only_unique VALUES (1, NULL, 1), (2, NULL, 2), (3, 3, 3)

UPDATE only_unique SET b = a; UPDATE only_unique SET a = 10 * a, v = 0 WHERE b < 3

INSERT INTO hashed VALUES (1, 1), (1, 1); UPDATE hashed SET v = 2 WHERE id = 1

TABLE expressions ORDER BY id; TABLE partial ORDER BY id; TABLE nulls ORDER BY id; TABLE deferred ORDER BY id; TABLE excluded ORDER BY during; TABLE keyless ORDER BY a, b

TABLE included ORDER BY id; TABLE classes ORDER BY id; TABLE many ORDER BY a; TABLE only_unique ORDER BY a; TABLE hashed
