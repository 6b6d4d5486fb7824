//! Random transactions that do what makes replication difficult: nested triggers, cascades, swaps of unique keys, savepoints, values of
//! all sizes, tables without a key, partitions.

use postgres::{Client, Error};

use crate::{Cluster, Rng, sqlstate};

/// Tables with everything that makes the order of trigger events differ from the order of execution.
const SCHEMA: &str = "
    CREATE TABLE account (id int PRIMARY KEY, amount int NOT NULL, note text, rank int UNIQUE DEFERRABLE);
    CREATE TABLE audit (id int, what text, amount int);
    CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE, note text);
    CREATE TABLE box (id int PRIMARY KEY, content text);
    -- Values of all lengths, stored in every way; columns that are computed, and one that is gone.
    CREATE TABLE doc (id int PRIMARY KEY, gone int, body text, n numeric, list int[], twice numeric GENERATED ALWAYS AS (n * 2) STORED);
    ALTER TABLE doc DROP COLUMN gone;
    ALTER TABLE doc SET (toast_tuple_target = 512);
    -- Without a key.
    CREATE TABLE whole (id int, what text);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE part (id int PRIMARY KEY, what text) PARTITION BY RANGE (id);
    CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (MINVALUE) TO (6);
    CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (6) TO (MAXVALUE);

    -- Changes the row whose AFTER trigger runs, and another table.
    CREATE FUNCTION account_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() > 2 THEN RETURN NULL; END IF;
        INSERT INTO audit VALUES (new.id, tg_op, new.amount);
        IF new.amount % 3 = 0 THEN UPDATE account SET amount = amount + 1 WHERE id = new.id; END IF;
        IF new.amount % 7 = 0 THEN DELETE FROM account WHERE id = new.id; END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER account_changed AFTER INSERT OR UPDATE ON account FOR EACH ROW EXECUTE FUNCTION account_changed();

    -- Makes INSERT replace.
    CREATE FUNCTION box_replaces() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM box WHERE id = new.id;
        RETURN new;
    END $$;
    CREATE TRIGGER box_replaces BEFORE INSERT ON box FOR EACH ROW EXECUTE FUNCTION box_replaces();
";

/// Their names.
pub const TABLES: &[&str] = &["account", "audit", "tree", "box", "doc", "whole", "part"];

/// Long enough to be stored out of line.
const LONG: &str = "repeat(md5(random()::text), 400)";

/// Make the tables on every node, and replicate them, unless they are there.
#[track_caller]
pub fn make_schema(cluster: &Cluster) {
    let exists: bool = cluster
        .client(0)
        .query_one("SELECT to_regclass('account') IS NOT NULL", &[])
        .unwrap()
        .get(0);
    if !exists {
        cluster.on_all(SCHEMA);
        for table in TABLES {
            cluster.replicate(table);
        }
    }
}

/// One statement on these tables.
pub fn statement(rng: &mut Rng) -> String {
    let (id, other, n) = (rng.below(12), rng.below(12), rng.below(50));
    match rng.below(26) {
        0 => format!(
            "INSERT INTO account VALUES ({id}, {n}, 'new', {other}) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount"
        ),
        1 => format!(
            "INSERT INTO account SELECT i, i, 'many', NULL FROM generate_series({id}, {id} + 3) i ON CONFLICT (id) DO NOTHING"
        ),
        2 => format!("UPDATE account SET amount = amount + {n} WHERE id BETWEEN {id} AND {other}"),
        3 => format!("UPDATE account SET rank = {id} + {other} - rank WHERE rank IN ({id}, {other})"),
        4 => format!("UPDATE account SET id = {id} WHERE id = {other}"),
        5 => format!("UPDATE account SET note = {LONG} WHERE id = {id}"),
        6 => format!("UPDATE account SET amount = {n} WHERE id = {id}"),
        7 => format!("DELETE FROM account WHERE id = {id}"),
        8 => format!(
            "INSERT INTO tree SELECT {id}, (SELECT id FROM tree WHERE id < {id} ORDER BY id DESC LIMIT 1), 'leaf'"
        ),
        9 => format!("UPDATE tree SET id = id + 100 WHERE id = {id}"),
        10 => format!("DELETE FROM tree WHERE id IN ({id}, {id} + 100)"),
        11 => format!("UPDATE tree SET parent = {other} WHERE id = {id} AND id <> {other}"),
        12 => format!("INSERT INTO box VALUES ({id}, '{n}'), ({other}, '{n}')"),
        13 => format!(
            "WITH gone AS (DELETE FROM box WHERE id = {id} RETURNING *) INSERT INTO box SELECT id, 'again' FROM gone"
        ),
        14 => format!("DELETE FROM audit WHERE id = {id}"),
        15 | 16 => format!(
            "INSERT INTO doc (id, body, n, list) VALUES ({id}, repeat('{n} ', {other} * 200), {n}, array_fill(NULL::int, ARRAY[{n} * 20])) \
             ON CONFLICT (id) DO UPDATE SET body = excluded.body"
        ),
        17 => format!("UPDATE doc SET n = n + 0.5, list[1] = {n} WHERE id < {id}"),
        18 => {
            format!("UPDATE doc SET list = (SELECT array_agg(i) FROM generate_series(1, {n} * 20) i) WHERE id = {id}")
        }
        19 => format!("UPDATE doc SET body = {LONG} WHERE id = {id}"),
        20 => format!("UPDATE doc SET body = body || '', n = NULL WHERE id IN ({id}, {other})"),
        21 => format!("INSERT INTO whole VALUES ({id}, {LONG}), ({other}, NULL)"),
        22 => format!("UPDATE whole SET id = {other} WHERE id = {id}"),
        23 => format!("DELETE FROM whole WHERE id < {id}"),
        24 => format!("UPDATE part SET id = {other}, what = '{n}' WHERE id = {id}"),
        _ if n == 0 => "TRUNCATE whole, part RESTART IDENTITY".into(),
        _ => format!("INSERT INTO part VALUES ({id}, 'new') ON CONFLICT (id) DO UPDATE SET what = '{n}'"),
    }
}

/// What goes into a random transaction.
pub struct Mix<'a> {
    /// The statement that begins it, and whatever is set for it.
    pub begin: &'a str,
    /// Each of its statements.
    pub statement: &'a dyn Fn(&mut Rng) -> String,
    /// Whether it goes on after this error of a statement, from the savepoint before.
    pub survives: &'a dyn Fn(&Error) -> bool,
}

/// A constraint was violated, or the statement was the victim of a deadlock.
pub fn refused_by_the_data(error: &Error) -> bool {
    sqlstate(error).is_some_and(|code| code.starts_with("23") || code == "40P01")
}

/// One transaction of random statements, each in a savepoint that may be rolled back. It may lose to another node's at any
/// statement, and is told so.
#[track_caller]
pub fn random_transaction(client: &mut Client, rng: &mut Rng) {
    let mix = Mix {
        begin: "BEGIN",
        statement: &statement,
        survives: &refused_by_the_data,
    };
    if let Err(error) = try_random_transaction(client, rng, &mix) {
        // With a TRUNCATE of another node in front of it, which needs the lock of a statement that has found no row, it may also be committed
        // without its session, which is told so.
        let committed = error
            .as_db_error()
            .is_some_and(|told| told.message().starts_with("the transaction is committed"));
        let expected = if committed { "08007" } else { "40001" };
        assert_eq!(sqlstate(&error), Some(expected), "{error:?}");
        client
            .batch_execute("ROLLBACK")
            .unwrap_or_else(|refused| panic!("ROLLBACK failed with {refused:?} after {error:?}"));
    }
}

/// The same, of another mix, where anything may go wrong.
///
/// # Errors
/// What the transaction does not survive; it is still to be rolled back then.
pub fn try_random_transaction(client: &mut Client, rng: &mut Rng, mix: &Mix<'_>) -> Result<(), Error> {
    client.batch_execute(mix.begin)?;
    let mut depth = 0;
    for number in 0..=rng.below(8) {
        client.batch_execute(&format!("SAVEPOINT s{number}"))?;
        depth += 1;
        match client.batch_execute(&(mix.statement)(rng)) {
            Err(error) if (mix.survives)(&error) => {
                client.batch_execute(&format!("ROLLBACK TO s{number}; RELEASE s{number}"))?;
                depth -= 1;
            }
            Err(error) => return Err(error),
            Ok(()) if rng.chance(20) => client.batch_execute(&format!("ROLLBACK TO s{number}"))?,
            Ok(()) if depth > 1 && rng.chance(30) => {
                client.batch_execute(&format!("RELEASE s{number}"))?;
                depth -= 1;
            }
            Ok(()) => {}
        }
    }
    client.batch_execute(if rng.chance(10) { "ROLLBACK" } else { "COMMIT" })
}
