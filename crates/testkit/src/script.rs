//! SQL scripts that must do on a group what they do on one plain database: the plain one is the oracle.
//!
//! A script is a text of paragraphs. Those before the line `--- run` make the schema, on every node and in the plain
//! database; those after it are steps, each sent as one simple query to a node and to the plain database, whose answers (rows,
//! counts, SQLSTATEs) must be the same. In the end the nodes' tables must equal each other's, and the plain database's.
//!
//! Directives, each at the beginning of a line:
//! - `--- tables: a, b`: what is replicated (in one transaction), and compared; `--- also: v`: what is only compared;
//! - `--- stays`: all steps go to one node, because they need one session; else each that begins outside of a transaction
//!   goes to the next node;
//! - `--- since 18`: for the servers of this major version on only: the script, or the step that it begins;
//! - `--- refuses 0A000`: the group refuses this step, with DETAIL and HINT; the plain database does not get it;
//! - `--- fails 40001`: the same, where the message is PostgreSQL's own.

use postgres::{Client, SimpleQueryMessage};

use crate::cluster::Cluster;
use crate::install::PgInstall;
use crate::{assert_converged, checksum, failed, refused, sqlstate};

/// A script, read.
struct Script {
    schema: Vec<String>,
    tables: Vec<String>,
    also: Vec<String>,
    steps: Vec<Step>,
    stays: bool,
    since: u32,
}

struct Step {
    sql: String,
    expected: Expected,
}

#[derive(Clone, PartialEq, Eq)]
enum Expected {
    /// What the plain database answers.
    AsPlain,
    Refused(String),
    Failed(String),
}

impl Script {
    fn read(text: &str, major: u32) -> Self {
        let mut script = Self {
            schema: Vec::new(),
            tables: Vec::new(),
            also: Vec::new(),
            steps: Vec::new(),
            stays: false,
            since: 0,
        };
        let mut running = false;
        for paragraph in text.split("\n\n") {
            let (mut sql, mut expected, mut since) = (String::new(), Expected::AsPlain, 0);
            for line in paragraph.lines() {
                match line
                    .strip_prefix("--- ")
                    .map(|rest| rest.split_at(rest.find(' ').unwrap_or(rest.len())))
                {
                    None => sql.extend([line, "\n"]),
                    Some(("run", _)) => running = true,
                    Some(("stays", _)) => script.stays = true,
                    Some(("tables:", names)) => script.tables.extend(list(names)),
                    Some(("also:", names)) => script.also.extend(list(names)),
                    Some(("since", major)) => since = major.trim().parse().expect("--- since <major version>"),
                    Some(("refuses", code)) => expected = Expected::Refused(code.trim().into()),
                    Some(("fails", code)) => expected = Expected::Failed(code.trim().into()),
                    Some((other, _)) => panic!("unknown directive {other}"),
                }
            }
            let blank = sql
                .lines()
                .all(|line| line.trim().is_empty() || line.starts_with("-- "));
            if blank {
                script.since = script.since.max(since);
            } else if since > major {
                continue;
            } else if running {
                script.steps.push(Step { sql, expected });
            } else {
                script.schema.push(sql);
            }
        }
        script
    }
}

fn list(names: &str) -> impl Iterator<Item = String> {
    names.split(',').map(|name| name.trim().to_owned())
}

/// Runs a script on `cluster`, in a schema of its own called `name`, and in a plain database of its first server.
///
/// # Panics
/// When the group does something that the plain database does not, or the other way round.
#[track_caller]
pub fn run_script(cluster: &Cluster, name: &str, text: &str) {
    let major = PgInstall::from_environment().major();
    let script = Script::read(text, major);
    if script.since > major {
        return;
    }
    let mut plain = plain_database(cluster);
    let mut nodes: Vec<Client> = (0..cluster.len()).map(|node| cluster.client(node)).collect();
    for client in &mut nodes {
        client
            .batch_execute("SET synod.ddl = local")
            .expect("a setting can be set");
    }
    for client in nodes.iter_mut().chain([&mut plain]) {
        let begin = format!("CREATE SCHEMA {name}; SET search_path = {name}, public");
        client.batch_execute(&begin).expect("a schema can be created");
        for sql in &script.schema {
            if let Err(error) = client.batch_execute(sql) {
                panic!("{name}: {sql}: {error:?}");
            }
        }
    }
    for client in &mut nodes {
        client.batch_execute("RESET synod.ddl").expect("a setting can be set");
    }
    let tables: Vec<String> = script.tables.iter().map(|table| format!("{name}.{table}")).collect();
    cluster.replicate_together(&tables.iter().map(String::as_str).collect::<Vec<_>>());
    run_steps(name, &script, &mut nodes, &mut plain);
    for client in nodes.iter_mut().chain([&mut plain]) {
        client
            .batch_execute("ROLLBACK; RESET ROLE")
            .expect("a transaction can be rolled back");
    }
    let compared: Vec<String> = tables
        .iter()
        .cloned()
        .chain(script.also.iter().map(|table| format!("{name}.{table}")))
        .collect();
    assert_converged(cluster, &compared.iter().map(String::as_str).collect::<Vec<_>>());
    for table in &compared {
        let (group, alone) = (checksum(&mut nodes[0], table), checksum(&mut plain, table));
        assert_eq!(
            group.expect("the table can be read"),
            alone.expect("the table can be read"),
            "{table} is not what it is in a plain database"
        );
    }
}

fn run_steps(name: &str, script: &Script, nodes: &mut [Client], plain: &mut Client) {
    let mut node = 0;
    for (number, step) in script.steps.iter().enumerate() {
        let on = format!("{name}, step {}, on n{}:\n{}", number + 1, node + 1, step.sql);
        let client = &mut nodes[node];
        match &step.expected {
            Expected::Refused(code) => {
                refused(&on, client.batch_execute(&step.sql), &[code]);
            }
            Expected::Failed(code) => {
                failed(&on, client.batch_execute(&step.sql), &[code]);
            }
            Expected::AsPlain => assert_eq!(answer(client, &step.sql), answer(plain, &step.sql), "{on}"),
        }
        if !script.stays && !in_transaction(&mut nodes[node]) {
            node = (node + 1) % nodes.len();
            // A plain INSERT may be told to try again when what is there already has yet to get here.
            nodes[node]
                .batch_execute(&format!("TABLE {name}.{} LIMIT 0", script.tables[0]))
                .expect("a strong read");
        }
    }
}

/// The rows, counts and errors that the server answers with.
fn answer(client: &mut Client, sql: &str) -> Vec<String> {
    match client.simple_query(sql) {
        Ok(messages) => messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let values: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect();
                    Some(values.join("|"))
                }
                SimpleQueryMessage::CommandComplete(rows) => Some(format!("({rows})")),
                _ => None,
            })
            .collect(),
        Err(error) => match sqlstate(&error) {
            Some(code) if !matches!(code, "40001" | "08007" | "0A000") => vec![format!("ERROR {code}")],
            _ => vec![format!("{error:?}")],
        },
    }
}

/// Whether a transaction block is open, or failed: a statement outside of one begins its own transaction.
fn in_transaction(client: &mut Client) -> bool {
    answer(client, "SELECT now() = statement_timestamp()") != ["t", "(1)"]
}

/// A connection to the database `plain` of the first server, which is in no group.
fn plain_database(cluster: &Cluster) -> Client {
    let server = cluster.server(0);
    let mut client = server.client();
    let exists = client.query_opt("SELECT 1 FROM pg_database WHERE datname = 'plain'", &[]);
    if exists.expect("the catalogue answers").is_none() {
        client
            .batch_execute("CREATE DATABASE plain")
            .expect("a database can be created");
    }
    server.client_to("plain")
}
