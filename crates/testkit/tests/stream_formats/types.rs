//! Every built-in type, with the values that make trouble, through every format.

use serde_json::Value as Json;

use crate::reading::{assert_binary_is_json, assert_binary_values};
use crate::{Source, replay, rows, server};

/// (type, values as SQL).
const TYPES: &[(&str, &[&str])] = &[
    ("smallint", &["-32768", "0"]),
    ("integer", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("oid", &["4294967295"]),
    ("real", &["'NaN'", "'-Infinity'", "1.1", "'-0'", "3.4e38", "1e-45"]),
    (
        "double precision",
        &["'NaN'", "'Infinity'", "0.1", "'-0'", "1.7976931348623157e308", "5e-324"],
    ),
    (
        "numeric",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "1.10",
            "12345678901234567890.123456789",
            "1e-200",
        ],
    ),
    ("numeric(8,3)", &["-1.5"]),
    ("money", &["'-12345.67'"]),
    ("boolean", &["true", "false"]),
    (
        "text",
        &[
            "''",
            "E'''\"\\\\ \\b\\f\\n\\r\\t\\x01\\x1f\\x7f '",
            "'ärger 漢字 😀'",
            "repeat('long', 3000)",
            "'$1 -- ; /* \\\\'",
        ],
    ),
    ("varchar(10)", &["' x '"]),
    ("char(6)", &["'x'"]),
    ("\"char\"", &["'x'"]),
    ("name", &["'a name'"]),
    (
        "bytea",
        &["'\\x'", "'\\x00ff5c27'", "decode(repeat('00', 5000), 'hex')"],
    ),
    ("bit(4)", &["B'0110'"]),
    ("bit varying", &["B''", "B'01101'"]),
    (
        "date",
        &["'infinity'", "'-infinity'", "'2024-02-29'", "'0044-03-15 BC'"],
    ),
    ("time", &["'23:59:59.999999'", "'24:00'"]),
    ("time with time zone", &["'12:00+05:30'"]),
    (
        "timestamp",
        &["'infinity'", "'2000-01-01 00:00:00.000001'", "'0044-03-15 12:00 BC'"],
    ),
    ("timestamptz", &["'-infinity'", "'2038-01-19 03:14:07+02'"]),
    ("interval", &["'1 year -2 mons 3 days -04:05:06.789'", "'0'"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("inet", &["'192.168.0.1/24'", "'::1'"]),
    ("inet", &["'10.0.0.1'", "'10.0.0.2'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("json", &["'{\"a\": [1, null, \"\\\\u00e9\"], \"a\": 2}'", "'null'"]),
    ("jsonb", &["'{\"b\": 1.00, \"a\": \"ä\"}'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    ("xml", &["'<a b=\"c\">&amp;</a>'", "'text only'"]),
    ("point", &["'(1.5,-2)'", "'(NaN,Infinity)'"]),
    ("line", &["'{1,2,3}'"]),
    ("lseg", &["'((0,0),(1,1))'"]),
    ("box", &["'((0,0),(1,1))'"]),
    ("path", &["'((0,0),(1,1))'", "'[(0,0),(1,1)]'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("circle", &["'<(0,0),2>'"]),
    ("tsvector", &["'fat:2,4 cat:3 ''it''''s'':1A'"]),
    ("tsquery", &["'fat & !(rat | ''x y'')'"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("txid_snapshot", &["'10:20:10,14,15'"]),
    ("refcursor", &["'a cursor'", "''"]),
    ("json[]", &["ARRAY['{\"a\": 1}'::json, NULL]"]),
    ("point[]", &["ARRAY[point '(1,2)']"]),
    ("bpchar", &["'x'", "'x '"]),
    ("pg_snapshot", &["'10:20:10,14,15'"]),
    ("xid8", &["'18446744073709551615'"]),
    ("xid", &["'4294967295'"]),
    ("tid", &["'(0,1)'"]),
    ("regclass", &["'pg_class'"]),
    ("integer[]", &["'{}'", "'{{1,NULL},{3,4}}'", "'[0:1]={5,6}'"]),
    ("text[]", &["ARRAY['', 'NULL', NULL, 'a\"b\\c', '{,}', ' ']"]),
    ("bytea[]", &["ARRAY['\\x00ff'::bytea, NULL]"]),
    ("double precision[]", &["'{NaN,-Infinity,0.1}'"]),
    ("int4range", &["'empty'", "'(,5)'", "'[1,)'"]),
    ("numrange", &["'[1.5,2.5]'"]),
    ("tstzrange", &["'[2020-01-01 00:00+00,infinity)'"]),
    ("int4multirange", &["'{[1,2),[5,7)}'", "'{}'"]),
    ("mood", &["'it''s \"fine\"'"]),
    ("positive", &["5"]),
    ("phrase", &["'a ''phrase'''"]),
    ("blanks", &["'x'", "'y'"]),
    ("truth", &["true", "false"]),
    ("host", &["'10.0.0.1'", "'10.0.0.2'"]),
    ("document", &["'{\"a\": 1}'", "'{\"a\":1}'"]),
    ("temper", &["'happy'", "'it''s \"fine\"'"]),
    ("couple", &["ROW(1, 'a')", "ROW(2, NULL)"]),
    ("pair", &["ROW(1, 'a \"b\", (c)')", "ROW(NULL, NULL)"]),
    ("pair[]", &["ARRAY[ROW(1, 'x,y')::pair, NULL]"]),
    ("mood[]", &["'{happy}'"]),
];

const MADE: &str = "CREATE TYPE mood AS ENUM ('happy', 'it''s \"fine\"');
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE DOMAIN phrase AS varchar(40);
    CREATE TYPE pair AS (number integer, \"The text\" text);
    CREATE DOMAIN blanks AS char(5);
    CREATE DOMAIN truth AS boolean;
    CREATE DOMAIN host AS inet;
    CREATE DOMAIN document AS json;
    CREATE DOMAIN temper AS mood;
    CREATE DOMAIN couple AS pair";

/// Those that this server has: it may be built without libxml.
fn types() -> Vec<(&'static str, &'static [&'static str])> {
    let has_xml = server().client().batch_execute("SELECT xml '<a/>'").is_ok();
    TYPES
        .iter()
        .filter(|(name, _)| has_xml || *name != "xml")
        .copied()
        .collect()
}

fn tables() -> String {
    let types = types();
    let tables = types.iter().enumerate().map(|(number, (type_name, _))| {
        format!("; CREATE TABLE t{number} (id integer PRIMARY KEY, v {type_name}); CREATE TABLE f{number} (v {type_name}); ALTER TABLE f{number} REPLICA IDENTITY FULL")
    });
    tables.collect()
}

/// Rows of each value, and of NULL; one of them updated to the next, one deleted: of a table with a key, and of one in which
/// only the whole row says which it is.
fn changes() -> Vec<String> {
    let mut statements = Vec::new();
    for (number, (type_name, values)) in types().iter().enumerate() {
        let mut all: Vec<_> = values.iter().map(|value| format!("({value})::{type_name}")).collect();
        all.push("NULL".into());
        for (id, value) in all.iter().enumerate() {
            statements.push(format!("INSERT INTO t{number} VALUES ({id}, {value})"));
            // Twice: one of two alike is to be touched.
            statements.push(format!("INSERT INTO f{number} VALUES ({value}), ({value})"));
        }
        let row = |id: usize| {
            format!(
                "ctid = (SELECT min(ctid) FROM f{number} WHERE v::text IS NOT DISTINCT FROM ({})::text)",
                all[id]
            )
        };
        statements.push(format!("UPDATE t{number} SET v = {} WHERE id = 0", all[1]));
        statements.push(format!("DELETE FROM t{number} WHERE id = 1"));
        statements.push(format!("UPDATE f{number} SET v = NULL WHERE {}", row(0)));
        statements.push(format!("DELETE FROM f{number} WHERE {}", row(all.len() - 1)));
    }
    statements
}

#[test]
fn every_type_arrives_through_every_format() {
    let setup = MADE.to_owned() + &tables();
    let mut source = Source::new("types", "UTF8", &setup);
    source.run(&["SET lc_monetary = 'C'; SET TimeZone = 'America/Argentina/Buenos_Aires'"]);
    for statement in changes() {
        source.run(&[&statement]);
    }
    assert_binary_is_json(&mut source);
    assert_binary_values(&mut source);

    // Whatever the session's settings, `sql` is exact; and read back with others still.
    source.run(&["SET extra_float_digits = -3; SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'; SET bytea_output = 'escape'"]);
    let sql = source.peek("sql", &[]);
    source.run(&["RESET bytea_output; RESET DateStyle; RESET IntervalStyle; RESET extra_float_digits"]);
    for (name, strings) in [("types_again", "on"), ("types_old", "off")] {
        let mut target = crate::database(name, "UTF8");
        target.batch_execute(&setup).unwrap();
        let settings = format!(
            "ALTER DATABASE {name} SET standard_conforming_strings = {strings}; ALTER DATABASE {name} SET DateStyle = 'SQL, DMY'; ALTER DATABASE {name} SET backslash_quote = off"
        );
        server().client().batch_execute(&settings).unwrap();
        replay(name, &sql);
        for (number, (type_name, _)) in types().iter().enumerate() {
            for table in [format!("t{number}"), format!("f{number}")] {
                let (here, there) = (rows(&mut source.client, &table), rows(&mut target, &table));
                assert_eq!(there, here, "{type_name} in {table}");
                assert!(!here.is_empty());
            }
        }
    }

    // Keys of every type.
    for line in source.peek("keys", &[]) {
        let parsed: Result<Json, _> = serde_json::from_str(&line);
        assert!(parsed.is_ok(), "{line}");
    }
}

#[test]
fn json_says_what_the_server_says() {
    let setup = MADE.to_owned() + &tables();
    let mut source = Source::new("json_values", "UTF8", &setup);
    for (number, (type_name, values)) in types().iter().enumerate() {
        for (id, value) in values.iter().enumerate() {
            source.run(&[&format!("INSERT INTO t{number} VALUES ({id}, ({value})::{type_name})")]);
        }
    }
    let mut lines = source
        .peek("json", &[("include-transaction", "off"), ("special-numbers", "string")])
        .into_iter();
    for (number, (type_name, values)) in types().iter().enumerate() {
        for id in 0..values.len() {
            let line = lines.next().unwrap();
            let value = serde_json::from_str::<Json>(&line).unwrap()["columns"][1]["value"].clone();
            let text: String = source
                .client
                .query_one(&format!("SELECT format('%s', v) FROM t{number} WHERE id = {id}"), &[])
                .unwrap()
                .get(0);
            let told = match (*type_name, &value) {
                ("boolean", Json::Bool(truth)) => if *truth { "t" } else { "f" }.to_owned(),
                ("bytea", Json::String(digits)) => format!("\\x{digits}"),
                // As it stands in the line: a number of JSON has more forms than one.
                (_, Json::Number(_)) => line
                    .rsplit_once("\"value\":")
                    .unwrap()
                    .1
                    .split('}')
                    .next()
                    .unwrap()
                    .to_owned(),
                (_, Json::String(text)) => text.clone(),
                _ => panic!("{type_name}: {line}"),
            };
            // char(n)::text loses its blanks.
            assert_eq!(told.trim_end(), text.trim_end(), "{type_name}");
        }
    }
    assert_eq!(lines.next(), None);
}
