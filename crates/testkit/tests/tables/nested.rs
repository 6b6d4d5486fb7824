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
    // A server may be built without libxml.
    if cluster.client(0).batch_execute("SELECT xml '<a/>'").is_err() {
        return;
    }
    cluster
        .client(0)
        .batch_execute(
            "CREATE DOMAIN letter AS xml CHECK (VALUE IS NOT NULL);
         CREATE TYPE page AS (title text, body xml, extra xml[]);
         CREATE DOMAIN marked_page AS page",
        )
        .unwrap();
    // A strong read: the types are everywhere.
    cluster.on_all("SELECT FROM synod.log_entry");
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
            "CREATE FUNCTION nested_most() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 10; END';
         CREATE FUNCTION nested_is_small(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN $1 <= nested_most(); END';
         CREATE DOMAIN nested_small AS int CHECK (nested_is_small(VALUE));
         CREATE DOMAIN nested_allowed AS text NOT NULL CHECK (current_setting('nested.allowed', true) = 'on');
         CREATE TYPE nested_sizes AS RANGE (subtype = nested_small);
         CREATE TYPE nested_measured AS (size nested_small, remark nested_allowed)",
        )
        .unwrap();
    // A strong read: the types are everywhere.
    cluster.on_all("SELECT FROM synod.log_entry");
    cluster.create_table(
        "nested_check",
        "CREATE TABLE nested_check (id int PRIMARY KEY, plain nested_small, list nested_small[], one nested_measured, many nested_measured[], remarks nested_allowed[],
             between nested_sizes, apart nested_sizes[], several nested_sizes_multirange)",
    );
    let mut client = cluster.client(0);
    client.batch_execute("SET nested.allowed = 'on'").unwrap();
    for (id, columns, values) in [
        (1, "plain", "3"),
        (2, "list", "'{{1,2},{3,NULL}}'"),
        (3, "one", "ROW(4, 'four')"),
        (4, "many", "ARRAY[ROW(5, 'five')::nested_measured, NULL]"),
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

/// What no value travels as is an error, whatever it is said to be the form of.
#[test]
fn forms_of_no_value_are_errors() {
    let cluster = CLUSTER.lease();
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "CREATE DOMAIN nested_count AS int CHECK (VALUE > 0);
             CREATE TYPE nested_pair AS (a nested_count, b text);
             CREATE TYPE nested_counts AS RANGE (subtype = nested_count)",
        )
        .unwrap();
    for (kind, forms) in [
        ("int", &["", "00"][..]),
        ("nested_count", &["", "0000000001"]),
        ("text", &["ff", "6100"]),
        ("name", &["ff"]),
        ("int[]", &["", "ff", "0000000100000000000000177fffffff00000001"]),
        (
            "nested_count[]",
            &[
                "",
                "c1",
                "c101",
                "c10101",
                "c10106",
                "c1010102020500",
                "c101010202",
                "c10207",
                "7b7d",
                "c1010000",
            ],
        ),
        (
            "nested_pair",
            &[
                "c101",
                "c10100",
                "c10101",
                "c1010303",
                "c101020400",
                "c1010200",
                "c1010205000000010201ff",
                "286129",
            ],
        ),
        ("nested_pair[]", &["c1010102020200", "c10101020203000000", "c101010202"]),
        (
            "nested_counts",
            &[
                "c101",
                "c1010000",
                "c101000500000002",
                "c10100050000000205000000",
                "c101000500000002050000000100",
                "c10101ff",
            ],
        ),
        (
            "nested_counts_multirange",
            &["c101", "c1010100", "c1010102", "c101ffffffffffffff7f", "c1010103001805"],
        ),
        ("pg_class", &["c101", "c10100"]),
        ("record", &["", "c10100"]),
        ("cstring", &["ff"]),
        ("internal", &["00"]),
        ("pg_node_tree", &["00"]),
        ("aclitem", &["ff"]),
    ] {
        for form in forms {
            let sql = format!("SELECT synod._travelling_form(synod._of_travelling_form('\\x{form}', NULL::{kind}))");
            let refused = client.batch_execute(&sql).expect_err(&sql);
            assert!(refused.as_db_error().is_some(), "{sql}: {refused:?}");
        }
    }
    for value in [
        "ARRAY[1, NULL]::nested_count[]",
        "ROW(NULL, 'b')::nested_pair",
        "nested_counts(2, 5)",
        "nested_counts_multirange(nested_counts(2, 5), nested_counts(7, NULL))",
        "'empty'::nested_counts",
    ] {
        let sql = format!(
            "SELECT ({value})::text, synod._of_travelling_form(synod._travelling_form(v), v)::text FROM (SELECT {value} AS v) AS s"
        );
        let row = client.query_one(&sql, &[]).unwrap();
        assert_eq!(row.get::<_, String>(0), row.get::<_, String>(1));
    }
}
