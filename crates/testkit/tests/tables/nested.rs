//! Values inside of arrays, composite types and ranges: the same on every node as where they were written, and taken there as they are.

use synod_testkit::{Cluster, assert_converged};

use crate::CLUSTER;

/// What a node has, as text.
fn texts(cluster: &Cluster, node: usize, sql: &str) -> Vec<Vec<Option<String>>> {
    let rows = cluster.client(node).query(sql, &[]).unwrap();
    rows.iter()
        .map(|row| (0..row.len()).map(|at| row.get(at)).collect())
        .collect()
}

const DOCUMENTS: &str = "SELECT id::text, plain::text, list[1]::text, list[2]::text, array_dims(list), (page).body::text,
    (page).extra[0]::text, (pages[1]).body::text, letters[1]::text, (marked).body::text FROM nested_document ORDER BY id";

/// A declaration that output leaves out is part of a value, also of one inside of another.
#[test]
fn documents_in_other_values_keep_their_declaration_everywhere() {
    let cluster = CLUSTER.lease();
    cluster
        .client(0)
        .batch_execute(
            "CREATE DOMAIN letter AS xml CHECK (VALUE IS NOT NULL);
         CREATE TYPE page AS (title text, body xml, extra xml[]);
         CREATE DOMAIN marked_page AS page",
        )
        .unwrap();
    cluster.create_table(
        "nested_document",
        "CREATE TABLE nested_document (id int PRIMARY KEY, plain letter, list xml[], page page, pages page[], letters letter[], marked marked_page)",
    );
    cluster
        .client(0)
        .batch_execute(
            r#"CREATE TEMPORARY TABLE x AS SELECT '<?xml version="1.0" encoding="UTF-8"?><a>ä</a>'::xml AS d;
            INSERT INTO nested_document SELECT 1, d, ARRAY[d, NULL], ROW('t,"', d, array_fill(d, ARRAY[1], ARRAY[0]))::page,
                ARRAY[ROW(NULL, d, NULL)::page, NULL], ARRAY[d], ROW('', d, '{}')::page FROM x;
            INSERT INTO nested_document VALUES (2, '<a/>', '{}', NULL, '{}', NULL, NULL)"#,
        )
        .unwrap();
    let written = texts(&cluster, 0, DOCUMENTS);
    for at in [1, 2, 5, 6, 7, 8, 9] {
        assert!(
            written[0][at].as_ref().unwrap().starts_with("<?xml"),
            "{at}: {written:?}"
        );
    }
    assert_eq!(texts(&cluster, 1, DOCUMENTS), written);
    assert_eq!(texts(&cluster, 2, DOCUMENTS), written);
    assert_converged(&cluster, &["nested_document"]);
}

/// The check of a domain asks what only the session that writes knows: for it, a value passed; elsewhere nobody asks again.
#[test]
fn checks_of_domains_are_made_where_a_row_is_written() {
    let cluster = CLUSTER.lease();
    cluster
        .client(0)
        .batch_execute(
            "CREATE FUNCTION most() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 10; END';
         CREATE FUNCTION is_small(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN $1 <= most(); END';
         CREATE DOMAIN small AS int CHECK (is_small(VALUE));
         CREATE DOMAIN allowed AS text NOT NULL CHECK (current_setting('nested.allowed', true) = 'on');
         CREATE TYPE sizes AS RANGE (subtype = small);
         CREATE TYPE measured AS (size small, remark allowed)",
        )
        .unwrap();
    cluster.create_table(
        "nested_check",
        "CREATE TABLE nested_check (id int PRIMARY KEY, plain small, list small[], one measured, many measured[], remarks allowed[],
             between sizes, apart sizes[], several sizes_multirange)",
    );
    let mut client = cluster.client(0);
    client.batch_execute("SET nested.allowed = 'on'").unwrap();
    for (id, columns, values) in [
        (1, "plain", "3"),
        (2, "list", "'{{1,2},{3,NULL}}'"),
        (3, "one", "ROW(4, 'four')"),
        (4, "many", "ARRAY[ROW(5, 'five')::measured, NULL]"),
        (5, "remarks", "'{six,\"\"}'"),
        (6, "between", "'[1,7)'"),
        (7, "apart", "'{empty,\"(,8]\"}'"),
        (8, "several", "'{[1,3), [5,)}'"),
    ] {
        client
            .batch_execute(&format!(
                "INSERT INTO nested_check (id, {columns}) VALUES ({id}, {values})"
            ))
            .unwrap();
        cluster
            .client(1)
            .query("SELECT FROM nested_check", &[])
            .unwrap_or_else(|error| panic!("{columns}: {error:?}"));
    }
    assert_converged(&cluster, &["nested_check"]);
}
