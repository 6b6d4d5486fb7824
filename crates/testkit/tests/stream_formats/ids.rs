//! The id of an event does not depend on what else its reader asked for: every reader calls the same change by the same id.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Source;
use crate::reading::as_json;

const SETUP: &str = "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (LIKE a INCLUDING ALL); CREATE TABLE c (LIKE a INCLUDING ALL);
     CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
     CREATE TABLE low PARTITION OF parted FOR VALUES IN (1, 2, 3); CREATE TABLE high PARTITION OF parted FOR VALUES IN (11, 12, 13);
     SELECT pg_replication_origin_create('elsewhere')";

/// Each of the transactions has something that some readers leave out ahead of something that they want.
const SCRIPT: [&str; 4] = [
    "BEGIN; INSERT INTO a VALUES (1, 'a1'); INSERT INTO parted VALUES (1, 'p1'), (11, 'p11'); INSERT INTO b VALUES (1, 'b1'), (20, 'b20');
     SELECT pg_logical_emit_message(true, 'note', 'n1'); UPDATE b SET v = 'b2' WHERE id = 20; DELETE FROM b WHERE id = 1;
     INSERT INTO c VALUES (1, 'c1'); COMMIT",
    "BEGIN; TRUNCATE a, b, c; TRUNCATE parted; INSERT INTO c VALUES (2, 'c2'); COMMIT",
    "BEGIN; INSERT INTO c VALUES (3, 'c3'); ALTER TABLE c ALTER id TYPE bigint; INSERT INTO c VALUES (4, 'c4'); COMMIT",
    "BEGIN; INSERT INTO c VALUES (5, 'c5'); SELECT pg_logical_emit_message(true, 'note', 'n2'); INSERT INTO c VALUES (6, 'c6');
     SELECT pg_replication_origin_session_setup('elsewhere'); COMMIT; SELECT pg_replication_origin_session_reset()",
];

const ASKED: [&[(&str, &str)]; 12] = [
    &[("include-rewrites", "on")],
    &[("include-tables", "public.a, public.c")],
    &[("exclude-tables", "public.a, public.low")],
    &[("operations", "insert, truncate")],
    &[("operations", "delete")],
    &[("row-filter", "public.b WHERE (id > 10)")],
    &[("exclude-columns", "public.a(v)")],
    &[("mask-columns", "public.a(v null)")],
    &[("publish-via-root", "on")],
    &[("origins", "none")],
    &[("origins", "elsewhere")],
    &[("include-ddl", "off"), ("skip-empty-xacts", "on")],
];

/// By ids: which change it is.
fn told(lines: &[String]) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    for line in lines {
        let object: Value = serde_json::from_str(line).unwrap();
        let Some(id) = object["id"].as_str() else { continue };
        let value = |of: &Value| {
            of.as_array()
                .and_then(|columns| columns.first())
                .map(|column| column["value"].clone())
        };
        let key = value(&object["columns"]).or_else(|| value(&object["identity"]));
        let which = match object["action"].as_str() {
            Some("T") => format!("{} is emptied", object["table"]),
            Some("M") => object["content"].to_string(),
            _ => format!("row {key:?}"),
        };
        let before = told.insert(id.to_owned(), which);
        assert_eq!(before, None, "{id} twice");
    }
    told
}

#[test]
fn the_id_of_an_event_does_not_depend_on_what_a_reader_asked_for() {
    let mut source = Source::new("ids", "UTF8", SETUP);
    source.run(&SCRIPT);
    let ids = [("include-ids", "on")];
    let all = told(&source.peek("json", &[&ids[..], &[("include-rewrites", "on")]].concat()));
    assert!(all.len() > 20, "{all:#?}");
    // The last is for json alone.
    for asked in ASKED.into_iter().chain([&[("filter-origins", "elsewhere")][..]]) {
        let json = told(&source.peek("json", &[&ids[..], asked].concat()));
        if asked[0].0 != "filter-origins" {
            let binary = told(&as_json(&source.peek_binary(asked), &ids));
            assert_eq!(json, binary, "{asked:?}");
        }
        assert!(!json.is_empty(), "{asked:?}");
        for (id, which) in &json {
            assert_eq!(all.get(id), Some(which), "{id}, {asked:?} of {all:#?}");
        }
    }
}
