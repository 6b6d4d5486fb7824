//! Rows of the page "What works" that no script can say: the forms of COPY, access methods, operator classes, replication origins.

use std::io::{Read, Write};

use synod_testkit::{assert_converged, refused};

use crate::{CLUSTER, race};

/// FREEZE asks for a table that was made or emptied in the transaction; frozen rows would not look like the transaction's own.
#[test]
fn every_form_of_copy() {
    let cluster = CLUSTER.lease();
    cluster.create_table("copied", "CREATE TABLE copied (id int PRIMARY KEY, v text)");
    let mut client = cluster.client(0);
    for (options, rows) in [
        ("", "1\ta\n2\t\\N\n"),
        ("(FREEZE)", "1\tb\n2\t\\N\n3\tc\n"),
        ("(FORMAT csv, HEADER, FREEZE true)", "id,v\n1,\"a,b\"\n2,\n"),
    ] {
        client.batch_execute("BEGIN; TRUNCATE copied").unwrap();
        let mut writer = client.copy_in(&format!("COPY copied FROM STDIN {options}")).unwrap();
        writer.write_all(rows.as_bytes()).unwrap();
        writer.finish().unwrap_or_else(|error| panic!("{options}: {error:?}"));
        client.batch_execute("COMMIT").unwrap();
        assert_converged(&cluster, &["copied"]);
        let expected = rows.lines().count() as i64 - i64::from(rows.starts_with("id"));
        let count = cluster.client(1).query_one("SELECT count(*) FROM copied", &[]).unwrap();
        assert_eq!(count.get::<_, i64>(0), expected, "{options}");
    }
    // Frozen rows are seen by snapshots from before them.
    let frozen = "SELECT count(*) FROM copied WHERE xmin::text = '2'";
    assert_eq!(client.query_one(frozen, &[]).unwrap().get::<_, i64>(0), 0);
    let mut text = String::new();
    let mut there = cluster.client(2);
    let sql = "COPY (SELECT * FROM copied ORDER BY id) TO STDOUT (FORMAT csv, FORCE_QUOTE (v))";
    there.copy_out(sql).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "1,\"a,b\"\n2,\n");
}

#[test]
fn other_access_methods_are_refused() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler;
         CREATE TABLE kept_otherwise (id int PRIMARY KEY) USING heap_too",
    );
    let mut client = cluster.client(0);
    let told = client.execute("SELECT synod.replicate_table('kept_otherwise')", &[]);
    refused("replicate_table", told, &["0A000"]);
    let sql = "SET synod.ddl = local; DROP TABLE kept_otherwise; DROP ACCESS METHOD heap_too";
    for node in 0..3 {
        cluster.client(node).batch_execute(sql).unwrap();
    }
}

/// Equality under an operator class of one's own is not that of the type: here it is that of the last digit.
#[test]
fn operator_classes_of_ones_own_are_certified() {
    let cluster = CLUSTER.lease();
    cluster.on_all(
        "CREATE FUNCTION digit_cmp(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 10 - $2 % 10';
         CREATE FUNCTION digit_lt(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 10 < $2 % 10';
         CREATE FUNCTION digit_le(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 10 <= $2 % 10';
         CREATE FUNCTION digit_eq(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 10 = $2 % 10';
         CREATE FUNCTION digit_ge(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 10 >= $2 % 10';
         CREATE FUNCTION digit_gt(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 10 > $2 % 10';
         CREATE OPERATOR #< (LEFTARG = int, RIGHTARG = int, FUNCTION = digit_lt, COMMUTATOR = #>);
         CREATE OPERATOR #<= (LEFTARG = int, RIGHTARG = int, FUNCTION = digit_le, COMMUTATOR = #>=);
         CREATE OPERATOR #= (LEFTARG = int, RIGHTARG = int, FUNCTION = digit_eq, COMMUTATOR = #=);
         CREATE OPERATOR #>= (LEFTARG = int, RIGHTARG = int, FUNCTION = digit_ge, COMMUTATOR = #<=);
         CREATE OPERATOR #> (LEFTARG = int, RIGHTARG = int, FUNCTION = digit_gt, COMMUTATOR = #<);
         CREATE OPERATOR CLASS digits FOR TYPE int USING btree AS OPERATOR 1 #<, OPERATOR 2 #<=, OPERATOR 3 #=, OPERATOR 4 #>=,
             OPERATOR 5 #>, FUNCTION 1 digit_cmp(int, int);
         CREATE TABLE digit (id int PRIMARY KEY, v int);
         CREATE UNIQUE INDEX ON digit (v digits)",
    );
    cluster.replicate("digit");
    let mut client = cluster.client(0);
    client.batch_execute("INSERT INTO digit VALUES (1, 1), (2, 2)").unwrap();
    let told = client.batch_execute("INSERT INTO digit VALUES (3, 12)");
    assert_eq!(synod_testkit::sqlstate(&told.unwrap_err()), Some("23505"));
    client
        .batch_execute("UPDATE digit SET v = v + 10 WHERE id = 1; DELETE FROM digit WHERE id = 2")
        .unwrap();
    let told = race(
        &cluster,
        "INSERT INTO digit VALUES (5, 25)",
        "INSERT INTO digit VALUES (6, 35)",
    );
    assert_eq!(told.iter().flatten().collect::<Vec<_>>(), ["40001"], "{told:?}");
    assert_converged(&cluster, &["digit"]);
}

/// A declaration that output leaves out is part of the value: a cast to text shows it.
#[test]
fn documents_keep_their_declaration_everywhere() {
    let cluster = CLUSTER.lease();
    // A server may be built without libxml.
    if cluster.client(0).batch_execute("SELECT xml '<a/>'").is_err() {
        return;
    }
    cluster.create_table("document", "CREATE TABLE document (id int PRIMARY KEY, x xml)");
    cluster
        .client(0)
        .batch_execute(
            r#"INSERT INTO document VALUES (1, '<?xml version="1.0" encoding="UTF-8"?><a>ä</a>'),
                (2, '<?xml version="1.0"?><a/>'), (3, 'content <b/>')"#,
        )
        .unwrap();
    let texts = |node: usize| -> Vec<String> {
        let rows = cluster
            .client(node)
            .query("SELECT x::text FROM document ORDER BY id", &[])
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let written = texts(0);
    assert!(written[0].starts_with("<?xml"), "{written:?}");
    assert_eq!(texts(1), written);
    assert_eq!(texts(2), written);
}

#[test]
fn sessions_that_replay_another_origin_do_not_write() {
    let cluster = CLUSTER.lease();
    cluster.create_table("replayed", "CREATE TABLE replayed (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    client
        .batch_execute(
            "SELECT pg_replication_origin_create('elsewhere'), pg_replication_origin_session_setup('elsewhere')",
        )
        .unwrap();
    let told = client.execute("INSERT INTO replayed VALUES (1)", &[]);
    refused("INSERT", told, &["0A000"]);
    client
        .batch_execute(
            "TABLE replayed; SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('elsewhere');
             INSERT INTO replayed VALUES (1)",
        )
        .unwrap();
    assert_converged(&cluster, &["replayed"]);
}
