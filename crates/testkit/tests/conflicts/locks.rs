//! Rows and tables that are locked: whoever decided by them elsewhere meanwhile is a rival.

use synod_testkit::{assert_converged, checksum, sqlstate};

use super::{CLUSTER, race};

#[test]
fn a_locked_row_is_a_row_touched() {
    let cluster = CLUSTER.lease();
    cluster.create_table("locked", "CREATE TABLE locked (id int PRIMARY KEY, v int)");
    for id in 0..6 {
        cluster
            .client(0)
            .batch_execute(&format!("INSERT INTO locked VALUES ({id}, 0), ({}, 0)", id + 100))
            .unwrap();
        for node in 0..2 {
            assert_eq!(
                checksum(
                    &mut cluster.client(node),
                    &format!("(SELECT * FROM locked WHERE id = {id})")
                )
                .unwrap()
                .0,
                1
            );
        }
        // Write skew is what FOR UPDATE is for: each locks what the other changes.
        let decide = |reads: i32, writes: i32| {
            format!("SELECT v FROM locked WHERE id = {reads} FOR UPDATE; UPDATE locked SET v = 1 WHERE id = {writes}")
        };
        let (one, other) = (decide(id, id + 100), decide(id + 100, id));
        assert_eq!(race(&cluster, &[&one, &other]), 1);
    }
    assert_converged(&cluster, &["locked"]);
}

/// A row that all who decide about other rows lock first: what another node decided under the lock is known here by then, applied
/// between this transaction's look and its COMMIT. Nothing of it meets a lock of ours, so certification alone can tell.
#[test]
fn a_row_that_is_locked_guards_others() {
    let cluster = CLUSTER.lease();
    cluster.create_table("guard", "CREATE TABLE guard (id int PRIMARY KEY, v int)");
    cluster.create_table(
        "entry",
        "CREATE TABLE entry (id bigserial PRIMARY KEY, guard int, amount int)",
    );
    cluster
        .client(0)
        .batch_execute("INSERT INTO guard SELECT i, 0 FROM generate_series(1, 9) i")
        .unwrap();
    let locks = ["FOR UPDATE", "FOR NO KEY UPDATE"];
    for (guard, (mine, theirs)) in locks
        .iter()
        .flat_map(|mine| locks.iter().map(move |theirs| (mine, theirs)))
        .enumerate()
    {
        let guard = guard + 1;
        let lock = |strength: &str| format!("BEGIN; SELECT FROM guard WHERE id = {guard} {strength}");
        let sum = format!("SELECT coalesce(sum(amount), 0)::int FROM entry WHERE guard = {guard}");
        let withdraw = format!("INSERT INTO entry (guard, amount) VALUES ({guard}, -80)");
        cluster
            .client(0)
            .batch_execute(&format!("INSERT INTO entry (guard, amount) VALUES ({guard}, 100)"))
            .unwrap();
        let (mut one, mut other) = (cluster.client(0), cluster.client(1));
        one.batch_execute(&lock(mine)).unwrap();
        let before: i32 = one.query_one(&sum, &[]).unwrap().get(0);
        assert_eq!(before, 100);
        other
            .batch_execute(&format!("{}; {withdraw}; COMMIT", lock(theirs)))
            .unwrap();
        // Applied here, and seen.
        let after: i32 = cluster.client(0).query_one(&sum, &[]).unwrap().get(0);
        assert_eq!(after, 20);
        one.batch_execute(&withdraw).unwrap();
        let error = one
            .batch_execute("COMMIT")
            .expect_err("what it decided by has changed under the lock that both took");
        assert_eq!(sqlstate(&error), Some("40001"), "{mine} against {theirs}");
    }
    assert_converged(&cluster, &["guard", "entry"]);
}

/// The same where one of them writes the row.
#[test]
fn a_row_that_is_written_guards_others_from_who_locks_it() {
    let cluster = CLUSTER.lease();
    cluster.create_table("credit", "CREATE TABLE credit (id int PRIMARY KEY, most int)");
    cluster.create_table(
        "orders",
        "CREATE TABLE orders (id bigserial PRIMARY KEY, credit int, amount int)",
    );
    cluster
        .client(0)
        .batch_execute("INSERT INTO credit SELECT i, 100 FROM generate_series(1, 9) i")
        .unwrap();
    let writes = [
        "UPDATE credit SET most = 50 WHERE id = 1",
        "UPDATE credit SET id = 12 WHERE id = 2",
        "DELETE FROM credit WHERE id = 3",
    ];
    for (id, write) in (1..).zip(writes) {
        let sum = format!("SELECT coalesce(sum(amount), 0)::int FROM orders WHERE credit = {id}");
        let (mut one, mut other) = (cluster.client(0), cluster.client(1));
        one.batch_execute(&format!("BEGIN; {write}")).unwrap();
        let before: i32 = one.query_one(&sum, &[]).unwrap().get(0);
        assert_eq!(before, 0);
        other
            .batch_execute(&format!(
                "BEGIN; SELECT FROM credit WHERE id = {id} FOR SHARE; \
                 INSERT INTO orders (credit, amount) VALUES ({id}, 80); COMMIT"
            ))
            .unwrap();
        let after: i32 = cluster.client(0).query_one(&sum, &[]).unwrap().get(0);
        assert_eq!(after, 80);
        let error = one
            .batch_execute("COMMIT")
            .expect_err("the other has seen the row as it was before this write");
        assert_eq!(sqlstate(&error), Some("40001"), "{write}");
    }
    assert_converged(&cluster, &["credit", "orders"]);
}

/// And where the one that writes the row changes a definition later on, so that what it has written travels ahead of that, or takes
/// the whole table for itself.
#[test]
fn a_row_that_is_written_guards_others_whatever_the_transaction_does_next() {
    let cluster = CLUSTER.lease();
    cluster.create_table("budget", "CREATE TABLE budget (id int PRIMARY KEY, most int)");
    cluster.create_table(
        "spending",
        "CREATE TABLE spending (id bigserial PRIMARY KEY, budget int, amount int)",
    );
    cluster
        .client(0)
        .batch_execute("INSERT INTO budget SELECT i, 100 FROM generate_series(1, 9) i")
        .unwrap();
    let later = [
        "CREATE VIEW something AS SELECT 1 AS one",
        "ALTER TABLE budget ADD COLUMN more int",
        "LOCK TABLE budget IN EXCLUSIVE MODE",
    ];
    let cases = later.iter().flat_map(|later| [(later, false), (later, true)]);
    for (id, (later, whole)) in (1..).zip(cases) {
        let lock = if whole {
            "LOCK TABLE budget IN SHARE MODE".to_owned()
        } else {
            format!("SELECT FROM budget WHERE id = {id} FOR SHARE")
        };
        let sum = format!("SELECT coalesce(sum(amount), 0)::int FROM spending WHERE budget = {id}");
        let (mut one, mut other) = (cluster.client(0), cluster.client(1));
        one.batch_execute(&format!("BEGIN; UPDATE budget SET most = 50 WHERE id = {id}"))
            .unwrap();
        let before: i32 = one.query_one(&sum, &[]).unwrap().get(0);
        assert_eq!(before, 0);
        other
            .batch_execute(&format!(
                "BEGIN; {lock}; INSERT INTO spending (budget, amount) VALUES ({id}, 80); COMMIT"
            ))
            .unwrap();
        let after: i32 = cluster.client(0).query_one(&sum, &[]).unwrap().get(0);
        assert_eq!(after, 80);
        one.batch_execute(later).unwrap();
        let error = one.batch_execute("COMMIT").expect_err(&format!(
            "{lock} has seen the row as it was before it was written, then {later}"
        ));
        assert_eq!(sqlstate(&error), Some("40001"), "{lock}, {later}");
    }
    assert_converged(&cluster, &["budget", "spending"]);
}

/// Locking a table again and again is locking it once.
#[test]
fn a_table_may_be_locked_any_number_of_times() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "again",
        "CREATE TABLE again (id int PRIMARY KEY) PARTITION BY HASH (id)",
    );
    cluster
        .client(0)
        .batch_execute(
            "DO $$ BEGIN FOR i IN 0..31 LOOP
                 EXECUTE format('CREATE TABLE again_%s PARTITION OF again FOR VALUES WITH (MODULUS 32, REMAINDER %s)', i, i);
             END LOOP; END $$",
        )
        .unwrap();
    // Each time locks all partitions: more often than a record may have keys.
    cluster
        .client(0)
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..2100 LOOP LOCK TABLE again IN SHARE ROW EXCLUSIVE MODE; END LOOP; \
             INSERT INTO again VALUES (1); END $$",
        )
        .unwrap();
    assert_converged(&cluster, &["again"]);
}

/// And where the other locks the table.
#[test]
fn a_table_that_is_locked_guards_others() {
    let cluster = CLUSTER.lease();
    cluster.create_table("ledger", "CREATE TABLE ledger (id bigserial PRIMARY KEY, amount int)");
    cluster.create_table("period", "CREATE TABLE period (id int PRIMARY KEY, total int)");
    cluster.on_all("CREATE VIEW entries AS SELECT amount FROM ledger WHERE amount > 0");
    // By its own name, and as what a view reads.
    for (period, locked) in [(1, "ledger"), (2, "entries")] {
        cluster
            .client(0)
            .batch_execute(&format!("INSERT INTO period VALUES ({period}, NULL)"))
            .unwrap();
        let (mut one, mut other) = (cluster.client(0), cluster.client(1));
        one.batch_execute("BEGIN; INSERT INTO ledger (amount) VALUES (80)")
            .unwrap();
        let total = |client: &mut postgres::Client| -> Option<i32> {
            let row = client.query_one("SELECT total FROM period WHERE id = $1", &[&period]);
            row.unwrap().get(0)
        };
        assert_eq!(total(&mut one), None);
        other
            .batch_execute(&format!(
                "BEGIN; LOCK TABLE {locked} IN SHARE MODE;
                 UPDATE period SET total = (SELECT coalesce(sum(amount), 0) FROM ledger) WHERE id = {period}; COMMIT"
            ))
            .unwrap();
        assert_eq!(total(&mut cluster.client(0)), Some(0));
        let error = one
            .batch_execute("COMMIT")
            .expect_err("the other has added up without it");
        assert_eq!(sqlstate(&error), Some("40001"), "{locked}");
    }
    assert_converged(&cluster, &["ledger", "period"]);
}

/// Sessions of one node that lock the same row before they write others wait for each other there, and nobody loses.
#[test]
fn a_row_that_sessions_of_one_node_lock_never_conflicts_with_itself() {
    let cluster = CLUSTER.lease();
    cluster.create_table("turnstile", "CREATE TABLE turnstile (id int PRIMARY KEY)");
    cluster.create_table("passed", "CREATE TABLE passed (id bigserial PRIMARY KEY)");
    cluster
        .client(1)
        .batch_execute("INSERT INTO turnstile VALUES (1)")
        .unwrap();
    let node = cluster.follower();
    cluster.client(node).batch_execute("SELECT id FROM turnstile").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = cluster.client(node);
                for _ in 0..30 {
                    client
                        .batch_execute(
                            "BEGIN; SELECT FROM turnstile FOR UPDATE; INSERT INTO passed DEFAULT VALUES; COMMIT",
                        )
                        .expect("no rival on another node");
                }
            });
        }
    });
    assert_converged(&cluster, &["turnstile", "passed"]);
}

/// A key that is taken and given back within a transaction is a lock on one server: whoever else wants it waits.
#[test]
fn a_key_that_comes_and_goes_guards_others() {
    let cluster = CLUSTER.lease();
    cluster.create_table("mutex", "CREATE TABLE mutex (name text PRIMARY KEY)");
    cluster.create_table("vault", "CREATE TABLE vault (id bigserial PRIMARY KEY, amount int)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO vault (amount) VALUES (100)")
        .unwrap();
    for leave in [false, true] {
        let (mut one, mut other) = (cluster.client(0), cluster.client(1));
        one.batch_execute("BEGIN; INSERT INTO mutex VALUES ('vault')").unwrap();
        let sum = "SELECT sum(amount)::int FROM vault";
        let before: i32 = one.query_one(sum, &[]).unwrap().get(0);
        other
            .batch_execute(
                "BEGIN; INSERT INTO mutex VALUES ('vault'); INSERT INTO vault (amount) VALUES (-80); DELETE FROM mutex; COMMIT",
            )
            .unwrap();
        let after: i32 = cluster.client(0).query_one(sum, &[]).unwrap().get(0);
        assert_eq!(after, before - 80);
        one.batch_execute("INSERT INTO vault (amount) VALUES (-80)").unwrap();
        if !leave {
            one.batch_execute("DELETE FROM mutex").unwrap();
        }
        let error = one
            .batch_execute("COMMIT")
            .expect_err("the other had the mutex meanwhile");
        assert_eq!(sqlstate(&error), Some("40001"), "leave: {leave}");
    }
    assert_converged(&cluster, &["mutex", "vault"]);
}

/// So many rows that the table stands for them: each is locked all the same.
#[test]
fn rows_that_the_table_stands_for_guard_others() {
    let cluster = CLUSTER.lease();
    cluster.create_table("masses", "CREATE TABLE masses (id int PRIMARY KEY, most int)");
    cluster.create_table(
        "drawn",
        "CREATE TABLE drawn (id bigserial PRIMARY KEY, of int, amount int)",
    );
    cluster
        .client(0)
        .batch_execute("INSERT INTO masses SELECT i, 100 FROM generate_series(1, 70000) i")
        .unwrap();
    let (mut one, mut other) = (cluster.client(0), cluster.client(1));
    one.batch_execute("BEGIN; UPDATE masses SET most = 50").unwrap();
    let sum = "SELECT coalesce(sum(amount), 0)::int FROM drawn WHERE of = 1";
    let before: i32 = one.query_one(sum, &[]).unwrap().get(0);
    assert_eq!(before, 0);
    other
        .batch_execute(
            "BEGIN; SELECT FROM masses WHERE id = 1 FOR SHARE; INSERT INTO drawn (of, amount) VALUES (1, 80); COMMIT",
        )
        .unwrap();
    let after: i32 = cluster.client(0).query_one(sum, &[]).unwrap().get(0);
    assert_eq!(after, 80);
    let error = one
        .batch_execute("COMMIT")
        .expect_err("the other has seen the limit before");
    assert_eq!(sqlstate(&error), Some("40001"));
    assert_converged(&cluster, &["masses", "drawn"]);
}

/// And where it is a part of a hierarchy, or all of one: as on one server, whichever of its tables is locked and whichever is written.
#[test]
fn a_table_of_a_hierarchy_that_is_locked_guards_others() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "parts",
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
         CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (200)",
    );
    cluster.create_table(
        "elders",
        "CREATE TABLE elders (id int PRIMARY KEY, v int); CREATE TABLE heirs (PRIMARY KEY (id)) INHERITS (elders)",
    );
    cluster.create_table("counted", "CREATE TABLE counted (id int PRIMARY KEY)");
    let rows = "INSERT INTO heirs SELECT i, 0 FROM generate_series(0, 99) i";
    cluster.client(0).batch_execute(rows).unwrap();
    let cases = [
        ("parts", "INSERT INTO parts VALUES ($)"),
        ("parts_low", "INSERT INTO parts VALUES ($)"),
        ("parts", "INSERT INTO parts_low VALUES ($)"),
        ("ONLY parts", "INSERT INTO parts VALUES ($)"),
        ("elders", "INSERT INTO heirs VALUES (100 + $)"),
        ("heirs", "UPDATE elders SET v = 1 WHERE id = $"),
        ("elders", "UPDATE elders SET v = 1 WHERE id = $"),
    ];
    for (id, (locked, write)) in (1..).zip(cases) {
        for (wait, id) in [("", id), ("NOWAIT", id + 20)] {
            let (mut one, mut other) = (cluster.client(0), cluster.client(1));
            let write = write.replace('$', &id.to_string());
            one.batch_execute(&format!("BEGIN; {write}; SELECT count(*) FROM counted"))
                .unwrap();
            other
                .batch_execute(&format!(
                    "BEGIN; LOCK TABLE {locked} IN SHARE MODE {wait}; INSERT INTO counted VALUES ({id}); COMMIT"
                ))
                .unwrap();
            cluster.client(0).batch_execute("SELECT count(*) FROM counted").unwrap();
            let error = one
                .batch_execute("COMMIT")
                .expect_err("the other has counted without it");
            assert_eq!(sqlstate(&error), Some("40001"), "{locked} {wait}, {write}");
        }
    }
    // What no lock stands for is no rival.
    let (mut one, mut other) = (cluster.client(0), cluster.client(1));
    one.batch_execute("BEGIN; INSERT INTO parts VALUES (150)").unwrap();
    other
        .batch_execute("BEGIN; LOCK TABLE parts_low IN SHARE MODE; INSERT INTO counted VALUES (200); COMMIT")
        .unwrap();
    one.batch_execute("COMMIT").unwrap();
    assert_converged(&cluster, &["parts", "elders", "heirs", "counted"]);
}

/// As far back as certification looks, however little there was before: it was half of what the group had committed so far.
#[test]
fn a_row_that_was_written_long_ago_guards_others() {
    let cluster = CLUSTER.lease();
    cluster.create_table("long_ago", "CREATE TABLE long_ago (id int PRIMARY KEY, v int)");
    cluster.create_table("meanwhile", "CREATE TABLE meanwhile (id bigserial PRIMARY KEY)");
    cluster
        .client(0)
        .batch_execute("INSERT INTO long_ago VALUES (1, 0)")
        .unwrap();
    let (mut one, mut other) = (cluster.client(0), cluster.client(1));
    one.batch_execute("BEGIN; UPDATE long_ago SET v = 1; SELECT count(*) FROM meanwhile")
        .unwrap();
    other
        .batch_execute("BEGIN; SELECT FROM long_ago FOR UPDATE; INSERT INTO meanwhile DEFAULT VALUES; COMMIT")
        .unwrap();
    other.batch_execute("SET statement_timeout = 0").unwrap();
    // More than there was before.
    other
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..(SELECT applied_csn FROM synod.stat_apply) LOOP
                 INSERT INTO meanwhile DEFAULT VALUES; COMMIT;
             END LOOP; END $$",
        )
        .unwrap();
    cluster
        .client(0)
        .batch_execute("SELECT count(*) FROM meanwhile")
        .unwrap();
    let error = one
        .batch_execute("COMMIT")
        .expect_err("the other has decided without it");
    assert_eq!(sqlstate(&error), Some("40001"));
    assert_converged(&cluster, &["long_ago", "meanwhile"]);
}
