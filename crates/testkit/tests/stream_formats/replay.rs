//! `sql` replayed into a second database gives the same tables: made-up tables, rows and operations.

use std::fmt::Write as _;

use synod_testkit::Rng;

use crate::reading::assert_binary_is_json;
use crate::{Source, database, replay, rows};

/// Types with values that are easily taken for each other, or hard to write.
const TYPES: &[(&str, &[&str])] = &[
    ("integer", &["1", "2", "-3"]),
    ("numeric", &["1.0", "1.00", "'NaN'", "-7"]),
    ("real", &["1.1", "'-0'", "'0'", "'Infinity'"]),
    ("text", &["'a'", "E'it''s \\\\ \"x\"\\n'", "''", "'$$ -- ;'", "'漢字'"]),
    ("text COLLATE \"und-insensitive\"", &["'a'", "'A'"]),
    ("char(3)", &["'a'", "'ab'"]),
    ("bytea", &["'\\x00ff'", "'\\x'"]),
    ("interval", &["'1 mon'", "'30 days'"]),
    ("timestamptz", &["'2024-01-01 00:00+02'", "'infinity'"]),
    ("jsonb", &["'{\"a\": 1.0}'", "'{\"a\": 1.00}'", "'null'"]),
    ("json", &["'{\"a\":1}'", "'{\"a\": 1}'"]),
    ("point", &["'(1,2)'", "'(1.00000001,2)'"]),
    ("integer[]", &["'{1,NULL}'", "'{}'"]),
    ("bit varying", &["B'01'", "B''"]),
];

/// Unchanged, it stays out of the WAL: random digits are too long for a row, compressed or not.
const LARGE: &str = "(SELECT string_agg(md5(i::text || random()::text), '') FROM generate_series(1, 400) i)";

struct Shape {
    table: String,
    columns: Vec<usize>,
    keyed: bool,
}

impl Shape {
    /// `CREATE TABLE` of a table named so that names need quoting.
    fn create(rng: &mut Rng, number: u64, insensitive: bool) -> (Self, String) {
        let table = format!("\"T {number} \"\"é\"\"\"");
        let columns: Vec<usize> = (0..1 + rng.below(4))
            .map(|_| {
                loop {
                    let pick = rng.below(TYPES.len() as u64) as usize;
                    if insensitive || !TYPES[pick].0.contains("COLLATE") {
                        return pick;
                    }
                }
            })
            .collect();
        let mut sql = format!("CREATE TABLE {table} (\"Key; --\" integer");
        for (at, pick) in columns.iter().enumerate() {
            write!(sql, ", \"c{at} \"\"\" {}", TYPES[*pick].0).unwrap();
        }
        sql += ", large text, twice integer GENERATED ALWAYS AS (\"Key; --\" * 2) STORED);";
        let identity = rng.below(4);
        match identity {
            0 => write!(sql, "ALTER TABLE {table} ADD PRIMARY KEY (\"Key; --\");").unwrap(),
            1 => write!(
                sql,
                "ALTER TABLE {table} ALTER \"Key; --\" SET NOT NULL; CREATE UNIQUE INDEX i{number} ON {table} (\"Key; --\"); \
                 ALTER TABLE {table} REPLICA IDENTITY USING INDEX i{number};"
            )
            .unwrap(),
            2 => write!(sql, "ALTER TABLE {table} ADD PRIMARY KEY (\"Key; --\"); ALTER TABLE {table} REPLICA IDENTITY FULL;").unwrap(),
            _ => write!(sql, "ALTER TABLE {table} REPLICA IDENTITY FULL;").unwrap(),
        }
        let keyed = identity < 3;
        (Self { table, columns, keyed }, sql)
    }

    fn value(rng: &mut Rng, pick: usize) -> String {
        let values = TYPES[pick].1;
        match rng.chance(20) {
            true => "NULL".into(),
            false => values[rng.below(values.len() as u64) as usize].into(),
        }
    }

    fn statement(&self, rng: &mut Rng) -> String {
        let table = &self.table;
        let key = rng.below(8);
        // Without a key: any one row, of several alike perhaps.
        let one = format!(
            "ctid = (SELECT ctid FROM {table} ORDER BY hashtext(ctid::text || '{}') LIMIT 1)",
            rng.next_u64()
        );
        let row = if self.keyed {
            format!("\"Key; --\" = {key}")
        } else {
            one
        };
        match rng.below(20) {
            0..=8 => {
                let mut values = key.to_string();
                for pick in &self.columns {
                    write!(values, ", {}", Self::value(rng, *pick)).unwrap();
                }
                let large = if rng.chance(30) { LARGE } else { "'small'" };
                let conflict = if self.keyed { "ON CONFLICT DO NOTHING" } else { "" };
                format!("INSERT INTO {table} VALUES ({values}, {large}) {conflict}")
            }
            9..=13 => {
                let at = rng.below(self.columns.len() as u64) as usize;
                format!(
                    "UPDATE {table} SET \"c{at} \"\"\" = {} WHERE {row}",
                    Self::value(rng, self.columns[at])
                )
            }
            14 => format!(
                "UPDATE {table} SET \"Key; --\" = {} WHERE {row}",
                100 + rng.next_u64() % 1_000_000
            ),
            15 => format!("UPDATE {table} SET large = {LARGE} WHERE {row}"),
            16..=18 => format!("DELETE FROM {table} WHERE {row}"),
            _ if rng.chance(20) => format!("TRUNCATE {table}"),
            _ => format!("SAVEPOINT s; DELETE FROM {table}; ROLLBACK TO s; RELEASE s"),
        }
    }
}

#[test]
fn a_replay_gives_the_same_tables() {
    let insensitive = synod_testkit::PgInstall::from_environment().has_icu();
    for seed in 1..=3 {
        let mut rng = Rng::new(seed);
        let mut setup = String::new();
        if insensitive {
            setup += "CREATE COLLATION \"und-insensitive\" (provider = icu, locale = 'und-u-ks-level2', deterministic = false);";
        }
        let mut shapes = Vec::new();
        for number in 0..6 {
            let (shape, sql) = Shape::create(&mut rng, number, insensitive);
            shapes.push(shape);
            setup += &sql;
        }
        let name = format!("replay_{seed}");
        let mut source = Source::new(&name, "UTF8", &setup);
        for _ in 0..120 {
            let mut transaction = "BEGIN".to_owned();
            for _ in 0..1 + rng.below(5) {
                let shape = &shapes[rng.below(shapes.len() as u64) as usize];
                transaction += "; ";
                transaction += &shape.statement(&mut rng);
            }
            let end = if rng.chance(10) { "ROLLBACK" } else { "COMMIT" };
            source.run(&[&format!("{transaction}; {end}")]);
        }
        let target = format!("replay_{seed}_again");
        let mut there = database(&target, "UTF8");
        there.batch_execute(&setup).unwrap();
        let checked = if seed % 2 == 0 { "off" } else { "on" };
        replay(&target, &source.peek("sql", &[("check-rows", checked)]));
        for shape in &shapes {
            assert_eq!(
                rows(&mut there, &shape.table),
                rows(&mut source.client, &shape.table),
                "seed {seed}, {}",
                shape.table
            );
        }
        assert_binary_is_json(&mut source);
    }
}

/// A row that is not there was passed over.
#[test]
fn a_replay_that_hits_another_number_of_rows_fails_if_asked_to() {
    let tables = "CREATE TABLE keyed (\"a'b\" int PRIMARY KEY, v text); CREATE TABLE whole (a int, v text);
                  ALTER TABLE whole REPLICA IDENTITY FULL;
                  CREATE TABLE numbered (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)";
    let rows = "TRUNCATE keyed, whole, numbered RESTART IDENTITY; INSERT INTO keyed VALUES (1, 'x'), (2, 'y');
                INSERT INTO whole VALUES (1, 'x'), (2, 'y'); INSERT INTO numbered (v) VALUES ('x')";
    let mut source = Source::new("hits", "UTF8", tables);
    let mut targets = ["off", "on"].map(|check| {
        let name = format!("hits_{check}");
        let mut client = database(&name, "UTF8");
        client.batch_execute(tables).unwrap();
        (check, name, client)
    });
    for change in [
        "UPDATE keyed SET v = 'z' WHERE v = 'x'",
        "UPDATE keyed SET \"a'b\" = 7 WHERE v = 'x'",
        "DELETE FROM keyed WHERE v = 'x'",
        "UPDATE whole SET v = 'z' WHERE v = 'x'",
        "DELETE FROM whole WHERE v = 'x'",
        "UPDATE numbered SET n = DEFAULT",
        "UPDATE numbered SET v = 'z'",
    ] {
        source.run(&[rows]);
        let done = source.peek("sql", &[]).len();
        source.run(&[change]);
        for (check, name, there) in &mut targets {
            there.batch_execute(rows).unwrap();
            let messages = source.peek("sql", &[("check-rows", check)]).split_off(done);
            replay(name, &messages);
            for table in ["keyed", "whole", "numbered"] {
                let (here, there) = (crate::rows(&mut source.client, table), crate::rows(there, table));
                assert_eq!(here, there, "{change}");
            }
            // Somebody else has written there.
            there
                .batch_execute(
                    "DELETE FROM keyed WHERE v <> 'y'; DELETE FROM whole WHERE v <> 'y'; DELETE FROM numbered",
                )
                .unwrap();
            let script = messages.join("\n") + "\n";
            let said = crate::server().psql(name, &["-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"], &script);
            assert_eq!(said.contains("hits 0 rows"), *check == "on", "{change}: {said}");
            assert_eq!(said.is_empty(), *check == "off", "{change}: {said}");
        }
    }
}
