-- One step of auditing: what the reader was told, audit_told (n, commit_lsn, xid, who, data), into synod.audit.
--
-- {slot}: put in by the worker. What committed before the position is there already.
WITH told AS MATERIALIZED (
    SELECT n, commit_lsn, xid, who::jsonb->'context' AS who, data::jsonb AS d FROM audit_told),
named AS (
    SELECT t.*, coalesce(t.d->'root'->>'oid', t.d->>'oid')::oid AS relation FROM told AS t),
written AS (
    INSERT INTO synod.audit
    SELECT t.d->>'id', (t.d->>'timestamp')::timestamptz,
           coalesce(t.d->'root'->>'table', format('%I.%I', t.d->>'schema', t.d->>'table')), t.relation,
           CASE t.d->>'action' WHEN 'I' THEN 'INSERT' WHEN 'U' THEN 'UPDATE' WHEN 'D' THEN 'DELETE' ELSE 'TRUNCATE' END,
           t.who->>'session_user', t.who->>'current_user', t.who->>'application_name', (t.who->>'client_addr')::inet,
           t.who->>'session_id', t.who->'values',
           t.d->'key', t.d->'old', t.d->'new',
           t.xid, t.commit_lsn,
           CASE WHEN t.d ? 'root' THEN format('%I.%I', t.d->>'schema', t.d->>'table') END
      FROM named AS t
      JOIN synod.audited AS a ON a.relation = t.relation
     WHERE t.commit_lsn >= a.since
       AND (a.until IS NULL OR t.commit_lsn < a.until)
       AND t.commit_lsn >= (SELECT position FROM synod.audit_state WHERE slot_name = '{slot}')
    RETURNING 1)
SELECT count(*) FROM written
