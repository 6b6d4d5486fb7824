-- What needs one session: cursors, prepared statements, temporary tables, settings.
--- tables: row_of
--- stays
CREATE TABLE row_of (id int PRIMARY KEY, v text);

--- run

INSERT INTO row_of SELECT i, 'v' || i FROM generate_series(1, 100) i

PREPARE one (int) AS SELECT v FROM row_of WHERE id = $1

PREPARE change (int, text) AS UPDATE row_of SET v = $2 WHERE id = $1 RETURNING *

EXECUTE one (1); EXECUTE one (2); EXECUTE one (3); EXECUTE one (4); EXECUTE one (5); EXECUTE one (6); EXECUTE one (7)

EXECUTE change (1, 'a')

EXECUTE change (2, 'a')

EXECUTE change (3, 'a')

EXECUTE change (4, 'a')

EXECUTE change (5, 'a')

EXECUTE change (6, 'a')

EXECUTE change (7, 'a')

SET plan_cache_mode = force_generic_plan

EXECUTE change (8, 'g'); EXECUTE one (8)

RESET plan_cache_mode

BEGIN

DECLARE c SCROLL CURSOR FOR SELECT * FROM row_of ORDER BY id

FETCH 3 FROM c

UPDATE row_of SET v = 'behind' WHERE id = 4

FETCH 2 FROM c

FETCH ABSOLUTE 4 FROM c

MOVE LAST FROM c

FETCH PRIOR FROM c

DECLARE u CURSOR FOR SELECT * FROM row_of WHERE id IN (50, 51) FOR UPDATE

FETCH u

UPDATE row_of SET v = 'current' WHERE CURRENT OF u

FETCH u

DELETE FROM row_of WHERE CURRENT OF u

COMMIT

BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT id FROM row_of WHERE id > 97 ORDER BY id; UPDATE row_of SET v = 'held' WHERE id = 99; COMMIT

FETCH ALL FROM h

CLOSE h

CREATE TEMPORARY TABLE t AS SELECT * FROM row_of WHERE id < 4

BEGIN; UPDATE t SET v = 'temporary'; INSERT INTO row_of SELECT id + 1000, v FROM t; DROP TABLE t; COMMIT

BEGIN; CREATE TEMPORARY TABLE t (id int) ON COMMIT DROP; INSERT INTO t SELECT generate_series(2001, 2003); INSERT INTO row_of SELECT id, 'dropped' FROM t; COMMIT

SET search_path = pg_catalog; SET DateStyle = 'German, DMY'; SET client_encoding = 'LATIN1'; SET session_replication_role = origin

EXECUTE change (9, 'path')

RESET ALL

SELECT count(*), md5(string_agg(v, ',' ORDER BY id)) FROM sessions.row_of

DEALLOCATE ALL

DISCARD ALL
