-- Partitioned tables: by range, list, hash and in levels; rows that move; keys to and from them.
--- tables: ranged, listed, hashed, levels, bare, customer, purchase, numbered, referred
--- also: ranged_1, ranged_2, ranged_rest, levels_a_1, purchase_2
CREATE TABLE ranged (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE ranged_1 PARTITION OF ranged FOR VALUES FROM ('2024-01-01') TO ('2024-07-01');
CREATE TABLE ranged_2 (junk int, v text, at date NOT NULL, id int NOT NULL);
ALTER TABLE ranged_2 DROP COLUMN junk;
ALTER TABLE ranged ATTACH PARTITION ranged_2 FOR VALUES FROM ('2024-07-01') TO ('2025-01-01');
CREATE TABLE ranged_rest PARTITION OF ranged DEFAULT;
CREATE UNIQUE INDEX ON ranged_1 (v);
CREATE TABLE listed (k text PRIMARY KEY, n int) PARTITION BY LIST (k);
CREATE TABLE listed_ab PARTITION OF listed FOR VALUES IN ('a', 'b');
CREATE TABLE listed_c PARTITION OF listed FOR VALUES IN ('c', 'd');
CREATE TABLE hashed (id bigint PRIMARY KEY, v jsonb) PARTITION BY HASH (id);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE hashed_2 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE TABLE levels (a text, b int, v int, PRIMARY KEY (a, b)) PARTITION BY LIST (a);
CREATE TABLE levels_a PARTITION OF levels FOR VALUES IN ('a') PARTITION BY RANGE (b);
CREATE TABLE levels_a_1 PARTITION OF levels_a FOR VALUES FROM (0) TO (100);
CREATE TABLE levels_a_2 PARTITION OF levels_a FOR VALUES FROM (100) TO (200);
CREATE TABLE levels_b PARTITION OF levels FOR VALUES IN ('b');
CREATE TABLE bare (k int, v text) PARTITION BY RANGE (k);
CREATE TABLE bare_1 PARTITION OF bare FOR VALUES FROM (0) TO (10);
CREATE TABLE bare_2 PARTITION OF bare FOR VALUES FROM (10) TO (20);
CREATE TABLE customer (region text, id int, name text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE customer_eu PARTITION OF customer FOR VALUES IN ('eu');
CREATE TABLE customer_us PARTITION OF customer FOR VALUES IN ('us');
CREATE TABLE purchase (id int, region text, customer int, PRIMARY KEY (id), FOREIGN KEY (region, customer) REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE) PARTITION BY RANGE (id);
CREATE TABLE purchase_1 PARTITION OF purchase FOR VALUES FROM (0) TO (100);
CREATE TABLE purchase_2 PARTITION OF purchase FOR VALUES FROM (100) TO (200);
CREATE TABLE numbered (id serial, k int, at timestamptz DEFAULT now(), PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE numbered_1 PARTITION OF numbered FOR VALUES FROM (0) TO (10);
CREATE TABLE numbered_2 PARTITION OF numbered FOR VALUES FROM (10) TO (20);
CREATE TABLE referred (id int PRIMARY KEY, region text, customer int, FOREIGN KEY (region, customer) REFERENCES customer);
CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.v LIKE '%!' THEN new.v := new.v || tg_op; END IF; RETURN new; END $$;
CREATE TRIGGER note_move BEFORE INSERT OR UPDATE ON ranged FOR EACH ROW EXECUTE FUNCTION note_move();

--- run

INSERT INTO ranged SELECT i, '2024-01-01'::date + i * 20, 'v' || i FROM generate_series(1, 30) i

UPDATE ranged SET at = at + 100 WHERE id % 3 = 0

-- Which row of a table is found first is no part of what it is.
WITH moved AS (UPDATE ranged SET at = '2024-02-02', v = v || '!' WHERE at > '2024-12-01' RETURNING tableoid::regclass, id, v) SELECT * FROM moved ORDER BY id

BEGIN; INSERT INTO ranged VALUES (100, '2024-02-01', 'moves'); UPDATE ranged SET at = '2024-08-01' WHERE id = 100; UPDATE ranged SET at = '2026-08-01' WHERE id = 100; UPDATE ranged SET v = 'moved' WHERE id = 100; COMMIT

BEGIN; UPDATE ranged SET at = '2024-08-02' WHERE id = 1; UPDATE ranged SET at = '2024-02-02' WHERE id = 1; SAVEPOINT s; UPDATE ranged SET at = '2030-01-01' WHERE id = 2; ROLLBACK TO s; UPDATE ranged SET v = 'back' WHERE id = 2; DELETE FROM ranged WHERE id = 4; COMMIT

INSERT INTO ranged VALUES (3, '2024-02-02', 'other') ON CONFLICT (id, at) DO UPDATE SET v = excluded.v RETURNING *

INSERT INTO ranged VALUES (200, '2024-03-03', 'other')

MERGE INTO ranged USING (VALUES (5, '2024-04-10'::date), (300, '2024-10-10')) s (i, d) ON id = i AND at = d WHEN MATCHED THEN UPDATE SET at = '2025-05-05' WHEN NOT MATCHED THEN INSERT VALUES (i, d, 'merged')

INSERT INTO ranged_2 (id, at, v) VALUES (400, '2024-09-09', 'direct'); UPDATE ranged_2 SET v = 'direct!' WHERE id = 400; DELETE FROM ranged_1 WHERE id = 2

SELECT tableoid::regclass, * FROM ranged ORDER BY id, at

BEGIN; SELECT id FROM ranged WHERE at < '2024-03-01' ORDER BY id FOR UPDATE; UPDATE ranged SET v = 'locked' || id WHERE at < '2024-02-01'; COMMIT

DELETE FROM ranged WHERE at BETWEEN '2024-06-01' AND '2024-08-01' RETURNING id

INSERT INTO listed VALUES ('a', 1), ('b', 2), ('c', 3)

INSERT INTO listed VALUES ('z', 1)

UPDATE listed SET k = CASE k WHEN 'a' THEN 'd' WHEN 'c' THEN 'a' ELSE k END

UPDATE listed SET k = 'z' WHERE k = 'b'

INSERT INTO hashed SELECT i, jsonb_build_object('n', i) FROM generate_series(1, 50) i

UPDATE hashed SET id = id + 1000 WHERE id % 2 = 0; DELETE FROM hashed WHERE id % 5 = 0

INSERT INTO levels VALUES ('a', 1, 1), ('a', 150, 2), ('b', 5, 3)

UPDATE levels SET b = 151 - b WHERE a = 'a'; UPDATE levels SET a = 'b' WHERE b > 140; UPDATE levels_a SET v = 10

UPDATE levels_a_1 SET b = 120

INSERT INTO bare SELECT i % 20, 'x' FROM generate_series(1, 40) i; UPDATE bare SET k = k + 10 WHERE k < 5; DELETE FROM bare WHERE k = 12; UPDATE bare SET v = 'y' WHERE k BETWEEN 8 AND 11

INSERT INTO customer VALUES ('eu', 1, 'a'), ('us', 1, 'b'), ('us', 2, 'c'); INSERT INTO purchase VALUES (1, 'eu', 1), (101, 'us', 1), (102, 'us', 2); INSERT INTO referred VALUES (1, 'us', 2)

INSERT INTO purchase VALUES (2, 'eu', 9)

UPDATE customer SET id = 10 WHERE region = 'eu'

UPDATE customer SET region = 'eu', id = 20 WHERE name = 'b'

DELETE FROM customer WHERE name = 'c'

DELETE FROM referred; DELETE FROM customer WHERE name = 'c'

TABLE purchase ORDER BY id

UPDATE purchase SET id = 50 WHERE id = 101

SELECT tableoid::regclass, * FROM purchase ORDER BY id

INSERT INTO numbered (k) SELECT i FROM generate_series(0, 19) i; UPDATE numbered SET id = k, at = 'epoch'

TRUNCATE numbered_1

BEGIN; TRUNCATE hashed, levels; INSERT INTO levels VALUES ('b', 1, 1), ('a', 7, 7); ROLLBACK

SELECT count(*), sum(id) FROM hashed

BEGIN; INSERT INTO levels VALUES ('a', 8, 8); TRUNCATE levels RESTART IDENTITY; INSERT INTO levels VALUES ('b', 1, 1), ('a', 7, 7); COMMIT

TRUNCATE customer

TRUNCATE customer CASCADE

SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM purchase), (SELECT count(*) FROM referred)

INSERT INTO customer VALUES ('eu', 1, 'again'); INSERT INTO purchase VALUES (150, 'eu', 1)
