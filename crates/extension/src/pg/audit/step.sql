-- One step of auditing: what the reader was told, audit_told (n, data), into synod.audit.
--
-- {slot}: put in by the worker. What committed before the position is there already.
WITH told AS MATERIALIZED (
    SELECT n, data::pg_catalog.jsonb AS d FROM audit_told),
placed AS (
    SELECT n, d,
           max(n) FILTER (WHERE d->>'action' = 'B') OVER so_far AS begins,
           max(n) FILTER (WHERE d->>'action' IN ('B', 'X')) OVER so_far AS described
      FROM told
    WINDOW so_far AS (ORDER BY n)),
changes AS (
    SELECT p.d, b.d AS begun, CASE WHEN x.d->>'action' = 'X' THEN x.d->'context' END AS who,
           coalesce((p.d->'root'->>'oid')::oid, (p.d->>'oid')::oid) AS relation,
           -- What is text in no encoding is told in hex, and says so.
           (SELECT jsonb_object_agg(c->>'name', CASE WHEN c ? 'encoding' THEN c - 'name' ELSE c->'value' END)
              FROM jsonb_array_elements(p.d->'columns') AS c) AS new_row,
           (SELECT jsonb_object_agg(c->>'name', CASE WHEN c ? 'encoding' THEN c - 'name' ELSE c->'value' END)
              FROM jsonb_array_elements(p.d->'identity') AS c) AS old_row
      FROM placed AS p
      JOIN told AS b ON b.n = p.begins
      JOIN told AS x ON x.n = p.described
     WHERE p.d->>'action' IN ('I', 'U', 'D', 'T')),
written AS (
    INSERT INTO synod.audit
    SELECT c.d->>'id', (c.begun->>'timestamp')::timestamptz,
           coalesce(c.d->'root'->>'table', format('%I.%I', c.d->>'schema', c.d->>'table')), c.relation,
           CASE c.d->>'action' WHEN 'I' THEN 'INSERT' WHEN 'U' THEN 'UPDATE' WHEN 'D' THEN 'DELETE' ELSE 'TRUNCATE' END,
           c.who->>'session_user', c.who->>'current_user', c.who->>'application_name', (c.who->>'client_addr')::inet,
           c.who->>'session_id', c.who->'values',
           (SELECT jsonb_object_agg(k->>'name', coalesce(c.new_row, c.old_row)->(k->>'name'))
              FROM jsonb_array_elements(c.d->'pk') AS k),
           c.old_row,
           -- What did not change and is stored out of line is in the old row, if that is whole.
           CASE WHEN c.new_row IS NOT NULL THEN coalesce(c.old_row, '{}') || c.new_row END,
           (c.begun->>'xid')::bigint, (c.begun->>'lsn')::pg_lsn,
           CASE WHEN c.d ? 'root' THEN format('%I.%I', c.d->>'schema', c.d->>'table') END
      FROM changes AS c
      JOIN synod.audited AS a ON a.relation = c.relation
     WHERE (c.begun->>'lsn')::pg_lsn >= a.since
       AND (a.until IS NULL OR (c.begun->>'lsn')::pg_lsn < a.until)
       AND (c.begun->>'lsn')::pg_lsn >= (SELECT position FROM synod.audit_state WHERE slot_name = '{slot}')
    RETURNING 1)
SELECT count(*) FROM written
