-- What PostgreSQL 18 brought: virtual columns, keys and foreign keys over periods, constraints that are not enforced or not
-- validated, OLD and NEW in RETURNING, uuidv7.
--- since 18
--- tables: computed, stay, booking, meeting, loose, lax, aged

CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE TABLE computed (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, kept int GENERATED ALWAYS AS (a * 3) STORED, name text, big text GENERATED ALWAYS AS (upper(name)));
CREATE TABLE stay (room int, during daterange, guest text, PRIMARY KEY (room, during WITHOUT OVERLAPS));
CREATE TABLE booking (id int PRIMARY KEY, room int, during daterange, FOREIGN KEY (room, PERIOD during) REFERENCES stay (room, PERIOD during));
CREATE TABLE meeting (id int, room int4range DEFAULT '[1,2)', during int4multirange, PRIMARY KEY (room, during WITHOUT OVERLAPS));
CREATE TABLE loose (id int PRIMARY KEY, room int, n int, CHECK (n > 0) NOT ENFORCED, FOREIGN KEY (id) REFERENCES computed NOT ENFORCED);
CREATE TABLE lax (id int PRIMARY KEY, n int, m int UNIQUE);
INSERT INTO lax VALUES (0, NULL, NULL);
ALTER TABLE lax ADD CONSTRAINT n_is_there NOT NULL n NOT VALID, ADD CONSTRAINT m_is_there NOT NULL m NOT VALID;
DELETE FROM lax;
CREATE TABLE aged (id uuid DEFAULT uuidv7() PRIMARY KEY, n int);

--- run

INSERT INTO computed (id, a, name) VALUES (1, 1, 'x'), (2, NULL, NULL) RETURNING *

UPDATE computed SET a = a + 1, name = 'y' WHERE id = 1 RETURNING old.a, old.twice, new.twice, new.kept, new.big

INSERT INTO computed (id, a) VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET a = excluded.a RETURNING old.twice, new.twice, old IS NULL

SELECT id, a, twice, kept, big FROM computed WHERE twice > 4 ORDER BY id

UPDATE computed SET a = 3 WHERE twice = 10 RETURNING twice

UPDATE computed SET twice = 3

DELETE FROM computed WHERE twice IS NULL RETURNING old.id, new.id

COPY computed TO STDOUT

MERGE INTO computed c USING (VALUES (1, 7), (9, 9)) s (id, a) ON c.id = s.id WHEN MATCHED THEN UPDATE SET a = s.a
    WHEN NOT MATCHED THEN INSERT (id, a) VALUES (s.id, s.a) RETURNING merge_action(), old.twice, new.twice

INSERT INTO stay VALUES (1, '[2024-01-01,2024-02-01)', 'a'), (1, '[2024-02-01,2024-03-01)', 'b'), (2, '[2024-01-01,2024-03-01)', 'c')

INSERT INTO stay VALUES (1, '[2024-01-15,2024-01-16)', 'd')

INSERT INTO booking VALUES (1, 1, '[2024-01-10,2024-02-10)'), (2, 2, '[2024-01-01,2024-01-02)')

INSERT INTO booking VALUES (3, 1, '[2024-02-10,2024-03-10)')

UPDATE stay SET during = '[2024-01-01,2024-01-20)' WHERE room = 1 AND guest = 'a'

UPDATE stay SET guest = guest || '!' WHERE room = 1

UPDATE stay SET during = '[2024-02-01,2024-04-01)' WHERE guest = 'b!' RETURNING old.during, new.during

DELETE FROM stay WHERE room = 2

DELETE FROM booking WHERE room = 2; DELETE FROM stay WHERE room = 2

INSERT INTO meeting (id, during) VALUES (1, '{[1,3),[7,9)}'), (2, '{[3,5)}')

INSERT INTO meeting (id, during) VALUES (3, '{[8,10)}')

UPDATE meeting SET id = 20 WHERE id = 2

UPDATE meeting SET during = '{[1,2),[7,9)}' WHERE id = 1; UPDATE meeting SET during = during + '{[2,3)}' WHERE id = 20; DELETE FROM meeting WHERE during @> 4

INSERT INTO loose VALUES (77, 1, -5); UPDATE loose SET n = -6

INSERT INTO lax VALUES (1, NULL, 1)

INSERT INTO lax VALUES (1, 1, 1), (2, 2, 2); UPDATE lax SET n = m + 1; DELETE FROM lax WHERE m = 2

UPDATE lax SET n = NULL

INSERT INTO aged (n) VALUES (1), (2); UPDATE aged SET n = n + 1; SELECT count(*), bool_and(uuid_extract_version(id) = 7) FROM aged

DELETE FROM aged
