//! What the audit holds: partitioned tables, text in no encoding, and for how long.

use synod_testkit::wait_until;

use super::auditing::{end, wait_for};
use super::{Alone, CLUSTER, PATIENCE};

#[test]
fn rows_of_partitions_are_recorded_as_their_tables() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_partitions");
    let mut client = alone.client();
    client
        .batch_execute(
            "CREATE TABLE sale (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE \"North\" PARTITION OF sale FOR VALUES IN ('n');
             CREATE TABLE south PARTITION OF sale FOR VALUES IN ('s') PARTITION BY RANGE (id);
             CREATE TABLE south_1 PARTITION OF south FOR VALUES FROM (0) TO (100)",
        )
        .unwrap();
    let said = cluster
        .server(0)
        .psql(alone.name, &[], "SELECT synod.audit_table('sale')");
    assert!(said.contains("Each partition has a setting of its own"), "{said}");
    for sql in [
        "INSERT INTO sale VALUES (1, 'n'), (2, 's')",
        "UPDATE sale SET region = 's' WHERE id = 1",
        "CREATE TABLE west PARTITION OF sale FOR VALUES IN ('w')",
        "INSERT INTO sale VALUES (3, 'w')",
        "CREATE TABLE east (id int, region text, PRIMARY KEY (id, region))",
        "INSERT INTO east VALUES (4, 'e')",
        "ALTER TABLE sale ATTACH PARTITION east FOR VALUES IN ('e')",
        "INSERT INTO sale VALUES (5, 'e')",
        "ALTER TABLE sale DETACH PARTITION west",
        "INSERT INTO west VALUES (6, 'w')",
        "TRUNCATE east",
    ] {
        client.batch_execute(sql).unwrap();
    }
    wait_for(&mut client, "public.sale", 7);
    let sql = "SELECT operation || ' ' || coalesce(key->>'id', '-') || ' ' || coalesce(partition, '-') FROM synod.audit
                WHERE relation = 'sale'::regclass ORDER BY commit_lsn, event_id";
    let rows = client.query(sql, &[]).unwrap();
    let told: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        told,
        [
            "INSERT 1 public.\"North\"",
            "INSERT 2 public.south_1",
            "DELETE 1 public.\"North\"",
            "INSERT 1 public.south_1",
            "INSERT 3 public.west",
            "INSERT 5 public.east",
            "TRUNCATE - public.east",
        ]
    );
    end(&mut client, &["sale"]);
}

#[test]
fn text_in_no_encoding_is_recorded_as_what_it_is() {
    let cluster = CLUSTER.lease();
    let mut first = cluster.client(0);
    first
        .batch_execute(
            "CREATE DATABASE audit_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
        )
        .unwrap();
    let mut client = cluster.server(0).client_to("audit_ascii");
    client
        .batch_execute("CREATE EXTENSION synod; CREATE TABLE t (id int PRIMARY KEY, v text)")
        .unwrap();
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    for sql in [
        "INSERT INTO t VALUES (1, 'plain')",
        "SET application_name = 'é'; INSERT INTO t VALUES (2, 'é')",
        "INSERT INTO t VALUES (3, convert_from('\\xe9ff', 'SQL_ASCII'))",
    ] {
        client.batch_execute(sql).unwrap();
    }
    wait_for(&mut client, "public.t", 3);
    let sql = "SELECT (new_row->'v')::text FROM synod.audit ORDER BY commit_lsn";
    let rows = client.query(sql, &[]).unwrap();
    let told: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        told,
        ["\"plain\"", "\"é\"", "{\"value\": \"e9ff\", \"encoding\": \"hex\"}"]
    );
    end(&mut client, &["t"]);
    drop(client);
    first.batch_execute("DROP DATABASE audit_ascii WITH (FORCE)").unwrap();
}

#[test]
fn what_is_older_than_its_retention_goes() {
    let cluster = CLUSTER.lease();
    let alone = Alone::new(&cluster, "audit_retention");
    let mut client = alone.client();
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").unwrap();
    client.batch_execute("SELECT synod.audit_table('t')").unwrap();
    client
        .batch_execute("INSERT INTO t SELECT generate_series(1, 10)")
        .unwrap();
    wait_for(&mut client, "public.t", 10);
    // More than go at once; one stays.
    client
        .batch_execute(
            "INSERT INTO synod.audit (event_id, changed_at, table_name, relation, operation, xid, commit_lsn)
             SELECT 'old ' || g, now() - interval '2 hours', 'public.t', 't'::regclass, 'INSERT', 1, '0/1' FROM generate_series(1, 25000) AS g",
        )
        .unwrap();
    let set = |value: &str| {
        let mut client = cluster.client(0);
        client
            .batch_execute(&format!("ALTER SYSTEM SET synod.audit_retention = '{value}'"))
            .unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    };
    set("1h");
    // It looks when it begins, and every minute.
    let end_worker = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'synod audit worker' AND datname = current_database()";
    client.batch_execute(end_worker).unwrap();
    wait_until(PATIENCE, "the old rows to go", || {
        let count = client.query_one("SELECT count(*) FROM synod.audit", &[]).ok()?;
        (count.get::<_, i64>(0) == 10).then_some(())
    });
    set("0");
    end(&mut client, &["t"]);
}
