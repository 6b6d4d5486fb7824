-- Triggers of the user's: row, statement, deferred, INSTEAD OF, transition tables; and rules.
--- tables: doc, history, counted, word
CREATE TABLE doc (id int PRIMARY KEY, body text, words int, changed int DEFAULT 0);
CREATE TABLE history (doc int, op text, body text);
CREATE TABLE counted (what text PRIMARY KEY, n bigint);
CREATE TABLE word (doc int REFERENCES doc ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, word text, PRIMARY KEY (doc, word));
CREATE FUNCTION before_doc() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.body = 'skip' THEN RETURN NULL; END IF;
    new.words := array_length(string_to_array(new.body, ' '), 1); new.changed := coalesce(old.changed, 0) + 1; RETURN new; END $$;
CREATE TRIGGER before_doc BEFORE INSERT OR UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION before_doc();
CREATE FUNCTION after_doc() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO history VALUES (coalesce(new.id, old.id), tg_op, coalesce(new.body, old.body));
    IF tg_op <> 'DELETE' THEN
        DELETE FROM word WHERE doc = new.id;
        INSERT INTO word SELECT DISTINCT new.id, w FROM unnest(string_to_array(new.body, ' ')) w;
    END IF;
    RETURN NULL; END $$;
CREATE TRIGGER after_doc AFTER INSERT OR UPDATE OF body OR DELETE ON doc FOR EACH ROW EXECUTE FUNCTION after_doc();
CREATE FUNCTION count_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO counted SELECT tg_op, count(*) FROM changed ON CONFLICT (what) DO UPDATE SET n = counted.n + excluded.n; RETURN NULL; END $$;
CREATE TRIGGER count_insert AFTER INSERT ON doc REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_rows();
CREATE TRIGGER count_update AFTER UPDATE ON doc REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_rows();
CREATE TRIGGER count_delete AFTER DELETE ON doc REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_rows();
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.body LIKE '%wrong%' THEN RAISE EXCEPTION 'late no'; END IF;
    UPDATE doc SET changed = changed + 100 WHERE id = new.id AND changed < 100; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON doc DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
CREATE FUNCTION truncated() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO counted VALUES ('TRUNCATE', 1); RETURN NULL; END $$;
CREATE TRIGGER truncated AFTER TRUNCATE ON history EXECUTE FUNCTION truncated();
CREATE VIEW upper_doc AS SELECT id, upper(body) AS body FROM doc;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF tg_op = 'DELETE' THEN DELETE FROM doc WHERE id = old.id; RETURN old; END IF;
    INSERT INTO doc VALUES (new.id, lower(new.body)) ON CONFLICT (id) DO UPDATE SET body = excluded.body; RETURN new; END $$;
CREATE TRIGGER instead INSTEAD OF INSERT OR UPDATE OR DELETE ON upper_doc FOR EACH ROW EXECUTE FUNCTION instead();
CREATE VIEW words AS SELECT word, count(*) AS n FROM word GROUP BY word;
CREATE RULE add_word AS ON INSERT TO words DO INSTEAD INSERT INTO word VALUES (1, new.word) ON CONFLICT DO NOTHING;
CREATE RULE no_delete AS ON DELETE TO words DO INSTEAD NOTHING;
CREATE RULE also AS ON INSERT TO counted WHERE new.what = 'rule' DO ALSO INSERT INTO history VALUES (0, 'rule', new.n::text);

--- run

INSERT INTO doc VALUES (1, 'a b c'), (2, 'x y'), (3, 'skip')

UPDATE doc SET body = body || ' more'

UPDATE doc SET changed = 5 WHERE id = 1

DELETE FROM doc WHERE id = 2

INSERT INTO doc VALUES (4, 'wrong')

BEGIN; INSERT INTO doc VALUES (5, 'late'); SET CONSTRAINTS ALL IMMEDIATE; UPDATE doc SET body = 'later' WHERE id = 5; COMMIT

ROLLBACK

BEGIN; INSERT INTO word VALUES (6, 'early'); INSERT INTO doc VALUES (6, 'early bird'); COMMIT

BEGIN; INSERT INTO word VALUES (77, 'orphan'); COMMIT

ROLLBACK

INSERT INTO upper_doc VALUES (7, 'SHOUT')

UPDATE upper_doc SET body = 'LOUDER' WHERE id = 7

DELETE FROM upper_doc WHERE id = 6

INSERT INTO words VALUES ('ruled')

DELETE FROM words

INSERT INTO counted VALUES ('rule', 5), ('none', 6)

MERGE INTO doc USING (VALUES (1, 'merged'), (8, 'fresh fish')) v (i, b) ON id = i WHEN MATCHED THEN UPDATE SET body = b WHEN NOT MATCHED THEN INSERT VALUES (i, b)

BEGIN; SAVEPOINT s; INSERT INTO doc VALUES (9, 'gone'); ROLLBACK TO s; INSERT INTO doc VALUES (10, 'stays'); COMMIT

TABLE doc ORDER BY id

TABLE history ORDER BY doc, op, body

TABLE counted ORDER BY what

TABLE word ORDER BY doc, word

TRUNCATE history

TABLE counted ORDER BY what
