-- Functions, DO, procedures that COMMIT.
--- tables: entry, total
--- stays
CREATE TABLE entry (id int PRIMARY KEY, grp int, v int);
CREATE TABLE total (grp int PRIMARY KEY, v bigint);
CREATE FUNCTION add_entry(id int, grp int, v int) RETURNS int LANGUAGE sql AS 'INSERT INTO entry VALUES ($1, $2, $3) RETURNING v';
CREATE FUNCTION add_atomic(id int, v int) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO entry VALUES (id, 0, v); UPDATE entry SET grp = 1 WHERE entry.id = add_atomic.id; END;
CREATE FUNCTION sum_of(g int) RETURNS bigint STABLE LANGUAGE sql AS 'SELECT sum(v) FROM entry WHERE grp = g';
CREATE FUNCTION now_sum(g int) RETURNS bigint VOLATILE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT sum(v) FROM entry WHERE grp = g); END';
CREATE FUNCTION settle(g int) RETURNS TABLE (grp int, v bigint) LANGUAGE plpgsql AS $$
DECLARE r record; c CURSOR FOR SELECT * FROM entry e WHERE e.grp = g ORDER BY id FOR UPDATE;
BEGIN
    FOR r IN c LOOP
        UPDATE entry SET v = entry.v + 1 WHERE CURRENT OF c;
    END LOOP;
    RETURN QUERY INSERT INTO total AS t SELECT g, sum_of(g) ON CONFLICT (grp) DO UPDATE SET v = excluded.v RETURNING t.grp, t.v;
    EXECUTE format('UPDATE total SET v = v + %s WHERE grp = $1', 1) USING g;
    RETURN;
END $$;
CREATE PROCEDURE fill(a int, b int, bad int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN a..b LOOP
        INSERT INTO entry VALUES (i, i % 3, i);
        IF i = bad THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
END $$;
CREATE PROCEDURE fill_loop() LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
    FOR r IN SELECT id FROM entry ORDER BY id LOOP
        UPDATE entry SET v = v * 2 WHERE id = r.id;
        COMMIT;
    END LOOP;
END $$;

--- run

SELECT add_entry(1, 1, 10), add_entry(2, 1, 20), add_entry(3, 2, 30)

SELECT add_atomic(4, 40)

SELECT add_entry(5, 1, 50), sum_of(1), now_sum(1)

SELECT * FROM settle(1)

SELECT * FROM settle(1)

DO $$ DECLARE n int; BEGIN
    UPDATE entry SET v = v + 1; GET DIAGNOSTICS n = ROW_COUNT;
    IF n <> 5 THEN RAISE EXCEPTION 'changed %', n; END IF;
    PERFORM settle(2);
END $$

CALL fill(100, 110, 105)

CALL fill_loop()

BEGIN; CALL fill(200, 202, 0); COMMIT

ROLLBACK

DO $$ BEGIN FOR i IN 300..304 LOOP INSERT INTO entry VALUES (i, 9, i); IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF; END LOOP; END $$

SELECT grp, count(*), sum(v) FROM entry GROUP BY grp ORDER BY grp

SELECT sum_of(g), now_sum(g) FROM generate_series(0, 3) g

TABLE total ORDER BY grp
