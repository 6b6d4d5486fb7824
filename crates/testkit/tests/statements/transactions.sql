-- Savepoints, EXCEPTION blocks, isolation levels, locks, TRUNCATE.
--- tables: account, parent, child, numbered
CREATE TABLE account (id int PRIMARY KEY, owner text, amount int);
CREATE TABLE parent (id int PRIMARY KEY, v int);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, v int);
CREATE TABLE numbered (id serial PRIMARY KEY, v int);
INSERT INTO parent VALUES (0, 0);
TRUNCATE parent CASCADE;

--- run

INSERT INTO account VALUES (1, 'a', 100), (2, 'b', 200), (3, 'c', 300)

BEGIN

UPDATE account SET amount = amount - 10 WHERE id = 1

SAVEPOINT s

UPDATE account SET amount = amount - 1000 WHERE id = 2

DELETE FROM account WHERE id = 3

ROLLBACK TO s

UPDATE account SET amount = amount + 10 WHERE id = 2

SAVEPOINT t

INSERT INTO account VALUES (1, 'twice', 0)

SELECT 1

ROLLBACK TO t

INSERT INTO account VALUES (4, 'd', 0)

RELEASE t

COMMIT

TABLE account ORDER BY id

BEGIN; INSERT INTO account VALUES (5, 'e', 5); INSERT INTO account VALUES (5, 'e', 5); COMMIT

ROLLBACK

DO $$ BEGIN
    INSERT INTO account VALUES (6, 'f', 6);
    BEGIN INSERT INTO account VALUES (7, 'g', 7); INSERT INTO account VALUES (1, 'twice', 0);
    EXCEPTION WHEN unique_violation THEN INSERT INTO account VALUES (8, 'h', 8); END;
    BEGIN UPDATE account SET amount = 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
    FOR i IN 20..29 LOOP
        BEGIN
            INSERT INTO account VALUES (i, 'loop', i);
            IF i % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF;
        EXCEPTION WHEN raise_exception THEN UPDATE account SET amount = amount + 1 WHERE id = 6; END;
    END LOOP;
END $$

TABLE account ORDER BY id

BEGIN ISOLATION LEVEL REPEATABLE READ

SELECT sum(amount) FROM account

UPDATE account SET amount = amount + 1 WHERE id < 3 RETURNING *

COMMIT

BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT sum(amount) FROM account; COMMIT

BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; SELECT sum(amount) FROM account; COMMIT

BEGIN READ ONLY; UPDATE account SET amount = 0; COMMIT

ROLLBACK

BEGIN; SELECT * FROM account WHERE id = 1 FOR UPDATE; UPDATE account SET amount = amount + 1 WHERE id = 2; COMMIT

BEGIN; SELECT id FROM account WHERE id < 5 ORDER BY id FOR SHARE; SELECT id FROM account WHERE id = 1 FOR NO KEY UPDATE NOWAIT; SELECT id FROM account ORDER BY id LIMIT 2 FOR KEY SHARE SKIP LOCKED; INSERT INTO account VALUES (50, 'locked', 1); COMMIT

BEGIN; LOCK TABLE account IN EXCLUSIVE MODE; UPDATE account SET amount = amount + 1; LOCK TABLE account, parent IN ACCESS EXCLUSIVE MODE; DELETE FROM account WHERE id = 50; COMMIT

INSERT INTO parent SELECT i, i FROM generate_series(1, 10) i; INSERT INTO child SELECT i, i, i FROM generate_series(1, 10) i

TRUNCATE parent

BEGIN; TRUNCATE parent, child; INSERT INTO parent VALUES (1, 1); SELECT count(*) FROM child; ROLLBACK

SELECT count(*), sum(v) FROM child

BEGIN; INSERT INTO parent VALUES (11, 11); TRUNCATE parent CASCADE; INSERT INTO parent VALUES (12, 12); SAVEPOINT s; TRUNCATE parent CASCADE; INSERT INTO parent VALUES (13, 13); ROLLBACK TO s; INSERT INTO child VALUES (12, 12, 12); COMMIT

TABLE parent

TABLE child

INSERT INTO numbered (v) VALUES (1), (2), (3)

TRUNCATE numbered RESTART IDENTITY

INSERT INTO numbered (v) VALUES (4); DELETE FROM numbered

TRUNCATE numbered CONTINUE IDENTITY

BEGIN; UPDATE account SET amount = 7 WHERE id = 1; COMMIT AND CHAIN; UPDATE account SET amount = 8 WHERE id = 1; ROLLBACK AND CHAIN; UPDATE account SET amount = amount + 1 WHERE id = 1; COMMIT

UPDATE account SET amount = 70 WHERE id = 2; UPDATE account SET amount = amount + 1 WHERE id = 2; SELECT amount FROM account WHERE id IN (1, 2) ORDER BY id

UPDATE account SET amount = 71 WHERE id = 2; SELECT 1 / 0; UPDATE account SET amount = 72 WHERE id = 2

TABLE account ORDER BY id

--- refuses 0A000
BEGIN; INSERT INTO account VALUES (60, 'prepared', 0); PREPARE TRANSACTION 'p'

ROLLBACK

--- refuses 0A000
BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO account VALUES (61, 'serializable', 0); COMMIT

ROLLBACK

SELECT count(*) FROM account
