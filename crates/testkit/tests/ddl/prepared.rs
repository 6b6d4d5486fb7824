//! Statements that were prepared, and have a plan for good, before another node changed what they name: they see the table as it is, or
//! fail as on one server.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use postgres::{Client, Error, Row, Statement};
use synod_testkit::{Cluster, assert_converged, sqlstate};

use crate::CLUSTER;

/// Executions until a plan is kept.
const OFTEN: usize = 7;

/// Executes until the statement is not told to try again.
fn execute(client: &mut Client, statement: &Statement, id: i32) -> Result<Vec<Row>, Error> {
    for _ in 0..20 {
        match client.query(statement, &[&id]) {
            Err(error) if sqlstate(&error) == Some("40001") => {}
            told => return told,
        }
    }
    panic!("40001 again and again");
}

/// What a statement says of row 1, or the SQLSTATE.
fn told(client: &mut Client, statement: &Statement) -> String {
    match execute(client, statement, 1) {
        Ok(rows) => {
            let values: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            format!("{values:?}")
        }
        Err(error) => sqlstate(&error).unwrap_or("lost").to_owned(),
    }
}

#[test]
fn a_prepared_statement_meets_what_another_node_has_changed() {
    let cluster = CLUSTER.lease();
    let make = "CREATE TABLE planned (id int PRIMARY KEY, v int, w int)";
    cluster.create_table("planned", make);
    let mut other = cluster.client(1);
    other
        .batch_execute("INSERT INTO planned SELECT i, i * 10, 0 FROM generate_series(1, 9) i")
        .unwrap();
    let read = "SELECT v::text FROM planned WHERE id = $1";
    let all = "SELECT p::text FROM planned p WHERE id = $1";
    let write = "UPDATE planned SET v = v WHERE id = $1 RETURNING v::text";
    let star = "SELECT id::text, p.* FROM planned p WHERE id = $1";
    // The change; what reading one column, the row, writing, and reading whatever columns there are comes to.
    let cases = [
        ("ALTER TABLE planned ADD COLUMN x int DEFAULT 7", ["10", "(1,10,0,7)", "10", "0A000"]),
        ("ALTER TABLE planned DROP COLUMN w", ["10", "(1,10,7)", "10", "0A000"]),
        ("ALTER TABLE planned ALTER v TYPE bigint", ["10", "(1,10,7)", "10", "0A000"]),
        (
            "ALTER TABLE planned ALTER v TYPE text USING 'now ' || v",
            ["now 10", "(1,\"now 10\",7)", "now 10", "0A000"],
        ),
        ("ALTER TABLE planned RENAME v TO u", ["42703", "(1,\"now 10\",7)", "42703", "0A000"]),
        ("ALTER TABLE planned RENAME u TO v", ["now 10", "(1,\"now 10\",7)", "now 10", "0A000"]),
        ("ALTER TABLE planned RENAME TO planned_no_more", ["42P01"; 4]),
        ("ALTER TABLE planned_no_more RENAME TO planned", ["now 10", "(1,\"now 10\",7)", "now 10", "1"]),
        (
            "CREATE FUNCTION planned_says() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := ''said''; RETURN NEW; END';
             CREATE TRIGGER says BEFORE UPDATE ON planned FOR EACH ROW EXECUTE FUNCTION planned_says()",
            ["now 10", "(1,\"now 10\",7)", "said", "1"],
        ),
        (
            "DROP TABLE planned/ CREATE TABLE planned (v int, id int PRIMARY KEY)/ SELECT synod.replicate_table('planned')/
             INSERT INTO planned VALUES (50, 1)",
            ["50", "(50,1)", "50", "0A000"],
        ),
    ];
    for (change, expected) in cases {
        let mut client = cluster.client(0);
        // One that names what is not there yet is left out.
        let statements = [read, all, write, star].map(|sql| client.prepare(sql).ok());
        for statement in statements.iter().flatten() {
            for _ in 0..OFTEN {
                execute(&mut client, statement, 2).unwrap_or_else(|error| panic!("before {change}: {error:?}"));
            }
        }
        for part in change.split('/') {
            other
                .batch_execute(part)
                .unwrap_or_else(|error| panic!("{part}: {error:?}"));
        }
        for (statement, expected) in statements.iter().zip(expected) {
            let Some(statement) = statement else { continue };
            let code = ["0A000", "42703", "42P01"].contains(&expected);
            let expected = if code {
                expected.to_owned()
            } else {
                format!("{:?}", [expected])
            };
            assert_eq!(told(&mut client, statement), expected, "{change}");
        }
    }
    assert_converged(&cluster, &["planned"]);
}

/// A session that reads and writes by prepared statements while the table changes under it; the rows that it has written.
fn work(cluster: &Cluster, node: usize, stop: &AtomicBool, next: &AtomicI32) -> Vec<i32> {
    let mut client = cluster.client(node);
    let (mut statements, mut written) = (None, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        let (read, write) = match &statements {
            Some(known) => known,
            None => {
                let read = client.prepare("SELECT v::text FROM reshaping WHERE id = $1");
                let write = client.prepare("INSERT INTO reshaping (id, v) VALUES ($1, ($1 * 10)::text::amount)");
                let (Ok(read), Ok(write)) = (read, write) else { continue };
                statements.insert((read, write))
            }
        };
        let id = next.fetch_add(1, Ordering::SeqCst);
        let told = client.query(write, &[&id]).and_then(|_| {
            written.push(id);
            client.query(read, &[&id])
        });
        match told {
            Ok(rows) => {
                let values: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
                assert_eq!(values, [(id * 10).to_string()], "row {id}");
            }
            Err(error) => match sqlstate(&error) {
                Some("40001") => {}
                Some("0A000" | "42804" | "42703" | "42P01") => statements = None,
                _ => panic!("{error:?}"),
            },
        }
    }
    written
}

#[test]
fn prepared_statements_at_work_while_the_table_changes() {
    let cluster = CLUSTER.lease();
    cluster.client(0).batch_execute("CREATE DOMAIN amount AS text").unwrap();
    cluster.create_table("reshaping", "CREATE TABLE reshaping (id int PRIMARY KEY, v amount)");
    let (stop, next) = (AtomicBool::new(false), AtomicI32::new(1));
    let written: Vec<i32> = std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..4)
            .map(|number| {
                let (cluster, stop, next) = (&*cluster, &stop, &next);
                scope.spawn(move || work(cluster, number % 2 * 2, stop, next))
            })
            .collect();
        let mut changer = cluster.client(1);
        for round in 0..2 {
            for change in [
                "ALTER TABLE reshaping ADD COLUMN x int DEFAULT 7",
                "ALTER TABLE reshaping ALTER v TYPE varchar(40)",
                "ALTER TABLE reshaping DROP COLUMN x",
                "ALTER TABLE reshaping ALTER v TYPE amount",
                "BEGIN; ALTER TABLE reshaping ADD COLUMN u text; UPDATE reshaping SET u = v; ALTER TABLE reshaping DROP COLUMN v;
                 ALTER TABLE reshaping RENAME u TO v; COMMIT",
            ] {
                changer
                    .batch_execute(change)
                    .unwrap_or_else(|error| panic!("{change}, round {round}: {error:?}"));
            }
        }
        stop.store(true, Ordering::SeqCst);
        sessions
            .into_iter()
            .flat_map(|session| session.join().unwrap())
            .collect()
    });
    assert!(written.len() > 20, "only {} rows were written", written.len());
    assert_converged(&cluster, &["reshaping"]);
    for node in 0..3 {
        let mut client = cluster.client(node);
        let wrong = "SELECT count(*) FROM reshaping WHERE v IS DISTINCT FROM (id * 10)::text";
        assert_eq!(client.query_one(wrong, &[]).unwrap().get::<_, i64>(0), 0);
        let lost = "SELECT count(*) FROM unnest($1::int[]) i WHERE NOT EXISTS (SELECT FROM reshaping WHERE id = i)";
        assert_eq!(client.query_one(lost, &[&written]).unwrap().get::<_, i64>(0), 0);
    }
}
