//! Indexes that only one node has, and others of their name.

use synod_testkit::{assert_converged, try_wait_until};

use crate::{CLUSTER, DEADLINE, apply_state, same_definition};

/// What CREATE INDEX CONCURRENTLY makes is on one node; what is done with it there does not stop the others.
#[test]
fn an_index_that_another_node_lacks_is_left_out_there() {
    let cluster = CLUSTER.lease();
    cluster.create_table("ix", "CREATE TABLE ix (id int PRIMARY KEY, v int, w int)");
    let mut client = cluster.client(0);
    let mut run = |sql: &str| {
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    };
    run("CREATE INDEX ix_everywhere ON ix (v, w)");
    run("INSERT INTO ix VALUES (1, 1, 1)");
    for sql in [
        "CREATE INDEX CONCURRENTLY ix_v ON ix (v)",
        "COMMENT ON INDEX ix_v IS 'here'",
        "ALTER INDEX ix_v SET (fillfactor = 50)",
        "ALTER INDEX ix_v RENAME TO ix_w",
        "ALTER TABLE ix_w RENAME TO ix_x",
        "DROP INDEX public.ix_x, ix_everywhere",
        "CREATE INDEX CONCURRENTLY ix_failed ON ix (v)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_failed'::regclass",
        "DROP INDEX IF EXISTS ix_never, ix_failed CASCADE",
        "ALTER TABLE ix ADD COLUMN last int",
    ] {
        run(sql);
    }
    let definition = same_definition(&cluster, "ix");
    assert!(
        definition.contains("last") && !definition.contains("ix_everywhere"),
        "{definition}"
    );
    assert_converged(&cluster, &["ix"]);
}

/// One of the same name that is another table's is not dropped: apply stops there, until it has another name.
#[test]
fn an_index_of_another_table_is_not_taken_for_it() {
    let cluster = CLUSTER.lease();
    cluster.create_table("meant", "CREATE TABLE meant (id int PRIMARY KEY, v int)");
    cluster.create_table("unmeant", "CREATE TABLE unmeant (id int PRIMARY KEY, v int)");
    cluster
        .client(0)
        .batch_execute("CREATE INDEX CONCURRENTLY twice ON meant (v)")
        .unwrap();
    let mut other = cluster.client(1);
    other
        .batch_execute("CREATE INDEX CONCURRENTLY twice ON unmeant (v)")
        .unwrap();
    cluster.client(0).batch_execute("DROP INDEX twice").unwrap();
    let stopped = try_wait_until(DEADLINE, || {
        apply_state(&cluster, 1).contains("one of table").then_some(())
    });
    assert!(stopped.is_some(), "{}", apply_state(&cluster, 1));
    other
        .batch_execute("SET synod.ddl = local; ALTER INDEX twice RENAME TO once; RESET synod.ddl")
        .unwrap();
    cluster
        .client(2)
        .batch_execute("ALTER TABLE meant ADD COLUMN last int")
        .unwrap();
    same_definition(&cluster, "meant");
    let kept = other.query_one("SELECT to_regclass('once') IS NOT NULL", &[]).unwrap();
    assert!(kept.get::<_, bool>(0));
}
