//! Rows that a statement locks by the way, and what triggers decide while a row is locked: who has locked the row on another node
//! meanwhile is a rival, though he left it as it was.

use std::time::Duration;

use postgres::Client;
use synod_testkit::{Cluster, assert_converged, sqlstate, wait_until};

use super::CLUSTER;

/// What every test here locks a row of, to decide by the sum of other rows.
fn make_tables(cluster: &Cluster, guard: &str, entries: &str) {
    cluster.create_table(guard, &format!("CREATE TABLE {guard} (id int PRIMARY KEY, v int)"));
    cluster.create_table(
        entries,
        &format!("CREATE TABLE {entries} (id bigserial PRIMARY KEY, guard int, amount int)"),
    );
    let rows = format!("INSERT INTO {guard} SELECT i, 10 FROM generate_series(1, 9) i");
    cluster.client(0).batch_execute(&rows).unwrap();
}

fn sum(client: &mut Client, entries: &str, guard: i32) -> i32 {
    let sql = format!("SELECT coalesce(sum(amount), 0)::int FROM {entries} WHERE guard = {guard}");
    client.query_one(&sql, &[]).unwrap().get(0)
}

/// On another node: an entry, made under a lock of the row that guards it.
fn enter_elsewhere(cluster: &Cluster, guard: &str, entries: &str, id: i32) {
    let sql = format!(
        "BEGIN; SELECT FROM {guard} WHERE id = {id} FOR UPDATE; \
         INSERT INTO {entries} (guard, amount) VALUES ({id}, 80); COMMIT"
    );
    cluster.client(1).batch_execute(&sql).unwrap();
    // Applied where the other one is under way.
    assert_eq!(sum(&mut cluster.client(0), entries, id), 80);
}

/// A row locked, and left as it is.
#[test]
fn a_row_that_is_locked_and_left_alone_guards_others() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster, "by_the_way", "by_the_way_of");
    cluster
        .client(0)
        .batch_execute(
            "CREATE FUNCTION as_it_is() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF TG_OP = ''UPDATE'' AND NEW.v >= 0 THEN RETURN NEW; END IF; RETURN NULL; END';
             CREATE TRIGGER as_it_is BEFORE UPDATE OR DELETE ON by_the_way FOR EACH ROW EXECUTE FUNCTION as_it_is()",
        )
        .unwrap();
    let statements = [
        "UPDATE by_the_way SET v = -1 WHERE id = $",
        "DELETE FROM by_the_way WHERE id = $",
        "INSERT INTO by_the_way AS b VALUES ($, 5) ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE b.v < excluded.v",
        "WITH w AS (UPDATE by_the_way SET v = -1 WHERE id = $ RETURNING 1) SELECT count(*) FROM w",
    ];
    for (id, statement) in (1..).zip(statements) {
        let statement = statement.replace('$', &id.to_string());
        let mut one = cluster.client(0);
        one.batch_execute("BEGIN").unwrap();
        // Twice, as a statement that is prepared may run.
        for _ in 0..2 {
            one.batch_execute(&statement).unwrap();
        }
        assert_eq!(sum(&mut one, "by_the_way_of", id), 0);
        enter_elsewhere(&cluster, "by_the_way", "by_the_way_of", id);
        one.batch_execute(&format!("INSERT INTO by_the_way_of (guard, amount) VALUES ({id}, 80)"))
            .unwrap();
        let error = one
            .batch_execute("COMMIT")
            .expect_err("what it decided by has changed under the lock that both took");
        assert_eq!(sqlstate(&error), Some("40001"), "{statement}");
    }
    assert_converged(&cluster, &["by_the_way", "by_the_way_of"]);
}

/// Was a decision by what had changed since: a trigger reads other rows under the lock of the row that it fires for, and certification
/// counted from the end of the statement. The trigger waits here where it has decided.
#[test]
fn what_a_trigger_reads_under_the_lock_of_its_row_is_guarded() {
    let cluster = CLUSTER.lease();
    make_tables(&cluster, "decided", "decided_by");
    cluster
        .client(0)
        .batch_execute(
            "CREATE FUNCTION decide() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE total int := (SELECT coalesce(sum(amount), 0) FROM decided_by WHERE guard = OLD.id);
             BEGIN
                 PERFORM pg_advisory_xact_lock(4711);
                 IF TG_WHEN = 'AFTER' THEN
                     INSERT INTO decided_by (guard, amount) VALUES (OLD.id, 100 - total); RETURN NULL;
                 END IF;
                 NEW.v := 100 - total; RETURN NEW;
             END $$",
        )
        .unwrap();
    // By its name the second comes before ours.
    let triggers = [("decide", "BEFORE UPDATE"), ("A", "AFTER UPDATE")];
    for (id, (name, when)) in (1..).zip(triggers) {
        let mut owner = cluster.client(0);
        owner
            .batch_execute(&format!(
                "CREATE TRIGGER \"{name}\" {when} ON decided FOR EACH ROW EXECUTE FUNCTION decide()"
            ))
            .unwrap();
        owner.batch_execute("SELECT pg_advisory_lock(4711)").unwrap();
        let mut one = cluster.client(0);
        let told = std::thread::scope(|scope| {
            let update = format!("UPDATE decided SET v = 1 WHERE id = {id}");
            let one = scope.spawn(move || one.batch_execute(&update));
            let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
            wait_until(Duration::from_secs(20), "the trigger to wait", || {
                (owner.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 1).then_some(())
            });
            enter_elsewhere(&cluster, "decided", "decided_by", id);
            owner.batch_execute("SELECT pg_advisory_unlock(4711)").unwrap();
            one.join().unwrap()
        });
        let error = told.expect_err("it has decided by what has changed under the lock of its row");
        assert_eq!(sqlstate(&error), Some("40001"), "{when}");
        owner
            .batch_execute(&format!("DROP TRIGGER \"{name}\" ON decided"))
            .unwrap();
    }
    assert_converged(&cluster, &["decided", "decided_by"]);
}

/// Sessions of one node wait for each other, and nobody loses.
#[test]
fn a_hot_row_with_triggers_never_conflicts_with_itself() {
    let cluster = CLUSTER.lease();
    cluster.create_table("hot_watched", "CREATE TABLE hot_watched (id int PRIMARY KEY, v int)");
    let node = cluster.follower();
    cluster
        .client(node)
        .batch_execute(
            "INSERT INTO hot_watched VALUES (1, 0);
             CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN NEW.v := OLD.v + 1; RETURN NEW; END';
             CREATE TRIGGER count_up BEFORE UPDATE ON hot_watched FOR EACH ROW EXECUTE FUNCTION count_up()",
        )
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = cluster.client(node);
                for _ in 0..20 {
                    client
                        .batch_execute("UPDATE hot_watched SET v = 0 WHERE id = 1")
                        .expect("no rival on another node");
                }
            });
        }
    });
    let v = cluster.client(0).query_one("SELECT v FROM hot_watched", &[]).unwrap();
    assert_eq!(v.get::<_, i32>(0), 160);
    assert_converged(&cluster, &["hot_watched"]);
}

/// A statement goes on with the function that its trigger had when it began, whatever becomes of the function meanwhile: also when a statement
/// inside of it begins with the new one.
#[test]
fn a_trigger_keeps_its_function_while_that_is_altered() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE TABLE stamped (id int PRIMARY KEY, n int NOT NULL);
         CREATE TABLE stamped_too (id int PRIMARY KEY, n int NOT NULL);
         CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF tg_table_name = 'stamped' THEN
                 PERFORM pg_advisory_xact_lock(77);
                 UPDATE stamped_too SET n = n + 1;
             END IF;
             new.n := new.n + 10;
             RETURN new;
         END $$;
         CREATE TRIGGER stamp BEFORE UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION stamp();
         CREATE TRIGGER stamp BEFORE UPDATE ON stamped_too FOR EACH ROW EXECUTE FUNCTION stamp()",
    );
    cluster.replicate_together(&["stamped", "stamped_too"]);
    let (mut client, mut blocker) = (cluster.client(0), cluster.client(0));
    client
        .batch_execute("INSERT INTO stamped VALUES (1, 0), (2, 0), (3, 0); INSERT INTO stamped_too VALUES (1, 0)")
        .unwrap();
    blocker.batch_execute("SELECT pg_advisory_lock(77)").unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || client.execute("UPDATE stamped SET n = n + 1", &[]));
        wait_until(Duration::from_secs(20), "the trigger waits", || {
            let waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory'";
            blocker.query_opt(waits, &[]).unwrap()
        });
        for change in ["SECURITY DEFINER", "SET search_path = public, pg_temp"] {
            blocker
                .batch_execute(&format!("ALTER FUNCTION stamp() {change}"))
                .unwrap();
        }
        blocker.batch_execute("SELECT pg_advisory_unlock(77)").unwrap();
        assert_eq!(running.join().unwrap().expect("the server lives"), 3);
    });
    let rows = "SELECT sum(n)::int, (SELECT n FROM stamped_too) FROM stamped";
    let row = cluster.client(1).query_one(rows, &[]).unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (33, 33));
    assert_converged(&cluster, &["stamped", "stamped_too"]);
}
