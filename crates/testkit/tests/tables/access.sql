-- Row security and column privileges: who may write what here; what was written is everywhere.
--- tables: notes, pay
--- stays
DO $$ BEGIN CREATE ROLE alice; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE bob; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE clerk; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT USAGE ON SCHEMA access TO alice, bob, clerk;
CREATE TABLE notes (id int PRIMARY KEY, owner name DEFAULT current_user, note text);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (owner = current_user);
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO alice, bob;
CREATE TABLE pay (id int PRIMARY KEY, name text, salary int, secret text DEFAULT 's');
GRANT SELECT (id, name), INSERT (id, name), UPDATE (name) ON pay TO clerk;
GRANT DELETE ON pay TO clerk;
CREATE FUNCTION raise_salary(who int) RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = access AS 'UPDATE pay SET salary = coalesce(salary, 0) + 1 WHERE id = who RETURNING salary';

--- run

SET ROLE alice

INSERT INTO notes (id, note) VALUES (1, 'mine'), (2, 'too')

INSERT INTO notes VALUES (3, 'bob', 'not mine')

SET ROLE bob

INSERT INTO notes (id, note) VALUES (4, 'bob''s')

INSERT INTO notes (id, note) VALUES (1, 'taken')

UPDATE notes SET note = note || '!' RETURNING id

DELETE FROM notes WHERE id = 1

SELECT id FROM notes

SET ROLE alice

UPDATE notes SET note = note || '?', id = id + 10 WHERE id < 3 RETURNING id

UPDATE notes SET owner = 'bob' WHERE id = 11

DELETE FROM notes WHERE id = 12

TRUNCATE notes

SET ROLE clerk

INSERT INTO pay (id, name) VALUES (1, 'a'), (2, 'b')

INSERT INTO pay VALUES (3, 'c', 1000)

UPDATE pay SET salary = 1

UPDATE pay SET name = 'aa' WHERE id = 1

SELECT * FROM pay

SELECT id, name FROM pay ORDER BY id

SELECT raise_salary(1)

DELETE FROM pay

RESET ROLE

SELECT * FROM pay ORDER BY id

SELECT * FROM notes ORDER BY id
