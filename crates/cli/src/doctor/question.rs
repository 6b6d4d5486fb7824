//! What a node is asked. It need not have the extension: a doctor is wanted before, too.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::failure::Failure;
use crate::session::Session;

/// How often a clock is read; the quickest answer counts.
const READINGS: usize = 5;

const SERVER: &str = "\
SELECT json_build_object(
    'settings', (SELECT json_object_agg(name, setting) FROM pg_settings
                  WHERE name IN ('shared_preload_libraries', 'max_connections', 'superuser_reserved_connections',
                        'reserved_connections', 'max_replication_slots', 'max_active_replication_origins',
                        'max_worker_processes', 'max_parallel_workers', 'log_min_messages', 'fsync', 'full_page_writes',
                        'default_transaction_isolation', 'session_replication_role', 'synod.log_retention',
                        'statement_timeout', 'idle_session_timeout', 'max_prepared_transactions', 'wal_level',
                        'max_slot_wal_keep_size', 'output_plugin_libraries')),
    'version', current_setting('server_version'),
    'version_num', current_setting('server_version_num')::int,
    'extension', (SELECT extversion FROM pg_extension WHERE extname = 'synod'),
    'available', (SELECT default_version FROM pg_available_extensions WHERE name = 'synod'),
    'in_recovery', pg_is_in_recovery(),
    'connections', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    'origins', (SELECT count(*) FROM pg_replication_origin),
    'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'active', active, 'plugin', plugin,
                     'wal_status', wal_status, 'safe', safe_wal_size, 'retained',
                     CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) END)), '[]')
                FROM pg_replication_slots),
    'role_settings', (SELECT coalesce(json_agg(json_build_object('role', r.rolname, 'database', d.datname, 'setting', c)), '[]')
                        FROM pg_db_role_setting AS s
                        LEFT JOIN pg_roles AS r ON r.oid = s.setrole
                        LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
                       CROSS JOIN unnest(s.setconfig) AS c
                       WHERE d.datname IS NULL OR d.datname = current_database()),
    'prepared', (SELECT coalesce(json_agg(gid), '[]') FROM pg_prepared_xacts WHERE database = current_database()),
    'encoding', (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()),
    'collation_version', (SELECT datcollversion FROM pg_database WHERE datname = current_database()),
    'collation_actual', (SELECT pg_database_collation_actual_version(oid) FROM pg_database
                          WHERE datname = current_database()))";

const MEMBER: &str = "\
SELECT json_build_object(
    'facts', (SELECT row_to_json(f) FROM synod._node_facts() AS f),
    'log', (SELECT row_to_json(l) FROM synod.stat_log AS l),
    'apply', (SELECT row_to_json(a) FROM synod.stat_apply AS a),
    'nodes', (SELECT coalesce(json_agg(n ORDER BY n.node_id), '[]') FROM synod.nodes AS n),
    'disk', (SELECT row_to_json(d) FROM synod._disk() AS d),
    'links', (SELECT count(DISTINCT s.application_name) FROM pg_stat_activity AS s
               WHERE s.datname = current_database() AND s.application_name LIKE 'synod link %->%'),
    'audit', (SELECT row_to_json(a) FROM synod.stat_audit AS a),
    'keyless', (SELECT coalesce(json_agg(t.table_name::regclass::text ORDER BY 1), '[]')
                  FROM synod.tables AS t WHERE t.identity IS NULL))";

/// Everything that a node says, as one JSON object.
pub fn ask(session: &mut Session) -> Result<Value, Failure> {
    let mut word = session.json(SERVER, &[])?;
    if !word["extension"].is_null() {
        let member = session.json(MEMBER, &[])?;
        if let (Some(word), Value::Object(member)) = (word.as_object_mut(), member) {
            word.extend(member);
        }
    }
    Ok(word)
}

/// How far a server's clock is from ours.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Seconds by which it is ahead.
    pub ahead: f64,
    /// At most so many seconds wrong.
    pub within: f64,
}

/// Read a server's clock.
pub fn clock(session: &mut Session) -> Result<Clock, Failure> {
    let mut best: Option<Clock> = None;
    for _ in 0..READINGS {
        let (before, began) = (SystemTime::now(), Instant::now());
        let there = session.value("SELECT extract(epoch FROM clock_timestamp())", &[])?;
        let took = began.elapsed();
        let there: f64 = there.and_then(|text| text.parse().ok()).unwrap_or_default();
        let here = before.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO) + took / 2;
        let reading = Clock {
            ahead: there - here.as_secs_f64(),
            within: took.as_secs_f64() / 2.0,
        };
        if best.is_none_or(|best| reading.within < best.within) {
            best = Some(reading);
        }
    }
    Ok(best.unwrap_or(Clock {
        ahead: 0.0,
        within: f64::MAX,
    }))
}
