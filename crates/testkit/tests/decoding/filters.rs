//! What a reader asks to be told, and what it must not be told.

use synod_testkit::{PgInstall, sqlstate};

use crate::Stream;

#[test]
fn tables_and_operations() {
    let mut stream = Stream::new(
        "tables",
        "CREATE SCHEMA sales; CREATE TABLE sales.order_lines (id int PRIMARY KEY); CREATE TABLE sales.customers (id int PRIMARY KEY);
         CREATE TABLE \"Odd, name\" (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY)",
    );
    stream.run(&[
        "INSERT INTO sales.order_lines VALUES (1)",
        "INSERT INTO sales.customers VALUES (2)",
        "INSERT INTO \"Odd, name\" VALUES (3)",
        "INSERT INTO secret VALUES (4)",
        "UPDATE sales.order_lines SET id = 5",
        "DELETE FROM secret",
        "TRUNCATE secret, sales.order_lines",
    ]);
    let mut rows = |options: &[(&str, &str)]| {
        let mut all = vec![("include-xids", "0"), ("skip-empty-xacts", "1")];
        all.extend(options);
        let lines = stream.try_get("peek", &all).unwrap();
        let lines: Vec<String> = lines
            .into_iter()
            .filter_map(|line| line.strip_prefix("table ").map(str::to_owned))
            .collect();
        lines
    };
    assert_eq!(rows(&[("include-tables", "sales.order_*")]).len(), 3);
    assert_eq!(
        rows(&[("include-tables", "public.\"Odd, name\", SALES.Customers")]).len(),
        2
    );
    assert_eq!(rows(&[("exclude-tables", "*.secret, sales.*")]).len(), 1);
    assert_eq!(
        rows(&[("operations", "delete")]),
        ["public.secret: DELETE: id[integer]:4"]
    );
    assert_eq!(
        rows(&[("operations", "truncate"), ("include-tables", "public.*")]),
        ["public.secret: TRUNCATE: (no-flags)"]
    );
    assert!(rows(&[("include-tables", "public.odd")]).is_empty());
}

#[test]
fn the_id_of_a_truncation_does_not_depend_on_other_tables() {
    let mut stream = Stream::new("truncations", "CREATE TABLE a (id int); CREATE TABLE b (id int)");
    stream.run(&["TRUNCATE a, b"]);
    let mut id = |tables: &str| {
        let options = [("format", "json"), ("include-ids", "on"), ("include-tables", tables)];
        let lines = stream.try_get("peek", &options).unwrap();
        let of_b = lines
            .iter()
            .find(|line| line.contains("\"table\":\"b\""))
            .expect("TRUNCATE b");
        of_b.split("\"id\":")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(id("*.*"), id("public.b"));
}

#[test]
fn columns_and_masks() {
    let mut stream = Stream::new(
        "masks",
        "CREATE TABLE people (id int PRIMARY KEY, name text, pin int, born date, note text);
         ALTER TABLE people REPLICA IDENTITY FULL; ALTER TABLE people ALTER note SET STORAGE EXTERNAL;",
    );
    stream.run(&[
        "INSERT INTO people VALUES (1, 'Ann', 1234, '2000-01-01', repeat('x', 9000)), (2, NULL, NULL, NULL, NULL)",
        "UPDATE people SET name = 'Bob' WHERE id = 1",
    ]);
    let mut rows = |options: &[(&str, &str)]| {
        let mut all = vec![("include-xids", "0"), ("skip-empty-xacts", "1")];
        all.extend(options);
        let mut lines = stream.try_get("peek", &all).unwrap();
        lines.retain(|line| line.starts_with("table "));
        lines
    };
    assert_eq!(
        rows(&[("columns", "public.people(id, p*)")])[0],
        "table public.people: INSERT: id[integer]:1 pin[integer]:1234"
    );
    assert_eq!(
        rows(&[("exclude-columns", "public.people(note, born, \"pin\")")])[2],
        "table public.people: UPDATE: old-key: id[integer]:1 name[text]:'Ann' new-tuple: id[integer]:1 name[text]:'Bob'"
    );
    let masked = rows(&[
        (
            "mask-columns",
            "public.people(name 'it''s', pin hash, born null, note hash)",
        ),
        ("mask-salt", "s"),
    ]);
    let sum = |text: &str| {
        let row = crate::server()
            .client()
            .query_one("SELECT encode(sha256($1), 'hex')", &[&text.as_bytes()]);
        row.unwrap().get::<_, String>(0)
    };
    let (pin, note) = (sum("s1234"), sum(&format!("s{}", "x".repeat(9000))));
    assert_eq!(
        masked[0],
        format!(
            "table public.people: INSERT: id[integer]:1 name[text]:'it''s' pin[integer]:'{pin}' born[date]:null note[text]:'{note}'"
        )
    );
    assert_eq!(
        masked[1],
        "table public.people: INSERT: id[integer]:2 name[text]:null pin[integer]:null born[date]:null note[text]:null"
    );
    // The old version, too.
    assert!(
        masked[2].contains(&format!(
            "old-key: id[integer]:1 name[text]:'it''s' pin[integer]:'{pin}'"
        )),
        "{}",
        masked[2]
    );
    assert!(!masked.concat().contains("Ann") && !masked.concat().contains("1234 "));
    // A column that is named and is not there may be there under another name.
    for (option, value) in [
        ("mask-columns", "public.people(pim hash)"),
        ("exclude-columns", "public.people(pim)"),
        ("columns", "public.people(id, pim)"),
    ] {
        let error = stream.try_get("peek", &[(option, value)]).expect_err(option);
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "22023");
        assert_eq!(
            error.message(),
            format!("option \"{option}\" names column \"pim\", which table public.people does not have")
        );
        let hint = error.hint().unwrap_or_default();
        assert!(hint.starts_with("Columns are: id, name, pin, born, note."), "{error:?}");
    }
}

#[test]
fn a_hash_does_not_move_those_of_the_columns_before_it() {
    let mut stream = Stream::new(
        "hashes",
        "CREATE TABLE n (a int8, b int8, c int8, d int8, e int8, f int8, g uuid, h uuid)",
    );
    stream.run(&[
        "INSERT INTO n SELECT 1111111111111111111 * 1, 1111111111111111111 * 2, 1111111111111111111 * 3, 1111111111111111111 * 4,
             1111111111111111111 * 5, 1111111111111111111 * 6, uuid, uuid FROM (SELECT md5('x')::uuid) AS made (uuid)",
    ]);
    let told = stream.rows(&[("mask-columns", "public.n(* hash)")]);
    let hashed = crate::server().client_to("hashes").query_one(
        "SELECT 'table public.n: INSERT:' || string_agg(format(' %s[%s]:%L', n, t, encode(sha256(v::bytea), 'hex')), '' ORDER BY n)
           FROM public.n, LATERAL (VALUES ('a', a::text, 'bigint'), ('b', b::text, 'bigint'), ('c', c::text, 'bigint'),
                ('d', d::text, 'bigint'), ('e', e::text, 'bigint'), ('f', f::text, 'bigint'), ('g', g::text, 'uuid'),
                ('h', h::text, 'uuid')) AS column_of (n, v, t)",
        &[],
    );
    assert_eq!(told, [hashed.unwrap().get::<_, String>(0)]);
}

#[test]
fn rows_that_come_into_view_are_new_and_those_that_leave_it_are_gone() {
    let mut stream = Stream::new(
        "row_filters",
        "CREATE TYPE mood AS ENUM ('low', 'high'); CREATE TABLE f (id int PRIMARY KEY, age int, m mood, t text);
         ALTER TABLE f REPLICA IDENTITY FULL; ALTER TABLE f ALTER t SET STORAGE EXTERNAL; CREATE TABLE k (id int PRIMARY KEY, v int)",
    );
    stream.run(&[
        "INSERT INTO f VALUES (1, 10, 'low', repeat('t', 5000)), (2, 20, 'high', NULL), (3, NULL, 'high', NULL)",
        "UPDATE f SET age = 18 WHERE id = 1",
        "UPDATE f SET age = 19 WHERE id = 1",
        "UPDATE f SET age = 5 WHERE id = 2",
        "UPDATE f SET age = 6 WHERE id = 2",
        "DELETE FROM f WHERE id = 1",
        "DELETE FROM f WHERE id = 2",
        "INSERT INTO k VALUES (1, 1), (5, 5)",
        "UPDATE k SET v = 7",
        "UPDATE k SET id = id + 5 WHERE id = 1",
        "DELETE FROM k",
    ]);
    let told = |stream: &mut Stream, filter: &str| {
        let options = [("include-xids", "0"), ("row-filter", filter), ("skip-empty-xacts", "1")];
        let lines = stream.try_get("peek", &options)?;
        let short = |line: &String| {
            let line = line.strip_prefix("table public.")?;
            let operation = line.split(' ').nth(1)?.trim_end_matches(':');
            let id = line.rsplit("id[integer]:").next()?.split(' ').next()?;
            Some(format!("{} {operation} {id}", &line[..1]))
        };
        Ok::<_, postgres::Error>(lines.iter().filter_map(short).collect::<Vec<_>>())
    };
    assert_eq!(
        told(&mut stream, "public.f WHERE (age >= 18), public.k WHERE (false)").unwrap(),
        ["f INSERT 2", "f INSERT 1", "f UPDATE 1", "f DELETE 2", "f DELETE 1"]
    );
    // By a key: what an old row has is enough.
    assert_eq!(
        told(&mut stream, "public.f WHERE (false), public.k WHERE (id > 4)").unwrap(),
        ["k INSERT 5", "k UPDATE 5", "k INSERT 6", "k DELETE 5", "k DELETE 6"]
    );
}

#[test]
fn a_row_that_comes_into_view_has_what_did_not_change() {
    let mut stream = Stream::new(
        "into_view",
        "CREATE TABLE f (id int PRIMARY KEY, age int, t text); ALTER TABLE f ALTER t SET STORAGE EXTERNAL;
         CREATE TABLE k (LIKE f INCLUDING ALL); ALTER TABLE f REPLICA IDENTITY FULL",
    );
    stream.run(&[
        "INSERT INTO f VALUES (1, 10, repeat('t', 5000))",
        "UPDATE f SET age = 18",
        "INSERT INTO k SELECT * FROM f",
        "UPDATE k SET id = 20",
    ]);
    let filter = [("row-filter", "public.f WHERE (age >= 18), public.k WHERE (id > 10)")];
    let lines = stream.try_get("peek", &filter).unwrap();
    let told = |table: &str| {
        lines
            .iter()
            .filter(|line| line.starts_with(table))
            .cloned()
            .collect::<Vec<_>>()
    };
    let whole = format!(
        "table public.f: INSERT: id[integer]:1 age[integer]:18 t[text]:'{}'",
        "t".repeat(5000)
    );
    assert_eq!(told("table public.f"), [whole]);
    // Nothing has it: a statement that says so, rather than a row without it.
    let statements = stream
        .try_get("peek", &[("format", "sql"), filter[0]])
        .unwrap()
        .concat();
    assert!(
        statements.contains("a value that did not change is not in the WAL"),
        "{statements}"
    );
}

#[test]
fn virtual_columns_are_not_told_as_null() {
    if PgInstall::from_environment().major() < 18 {
        return;
    }
    let mut stream = Stream::new(
        "virtual_columns",
        "CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL)",
    );
    stream.run(&["INSERT INTO t VALUES (1)"]);
    let rows = stream.try_get("peek", &[("format", "json")]).unwrap().concat();
    assert!(rows.contains("\"id\"") && !rows.contains("twice"), "{rows}");
    let error = stream
        .try_get("peek", &[("row-filter", "public.t WHERE (twice = 2)")])
        .expect_err("no row has it");
    assert_eq!(error.code().unwrap().code(), "22023");
}

#[test]
fn filters_that_cannot_be_evaluated_are_refused() {
    let mut stream = Stream::new(
        "bad_filters",
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE FUNCTION mine(int) RETURNS bool IMMUTABLE LANGUAGE sql RETURN true;
         CREATE TYPE pair AS (a int, b int)",
    );
    stream.run(&["INSERT INTO t VALUES (1, 1)", "UPDATE t SET v = 2"]);
    for (filter, reason) in [
        ("v >", "syntax error"),
        ("true; DROP TABLE t", "syntax error"),
        ("true FROM t", "more than one expression"),
        ("true, false", "more than one expression"),
        ("missing = 1", "column \"missing\" does not exist"),
        ("v", "must be type boolean"),
        ("mine(v)", "not built in"),
        ("now() > '2000-01-01'", "not immutable"),
        ("random() > 0", "not immutable"),
        ("EXISTS (SELECT 1)", "not a simple expression"),
        ("count(*) > 1", "aggregate"),
        ("row(1, 2)::pair = row(1, 2)::pair", "simple expression"),
        ("v = 'x'", "invalid input syntax"),
    ] {
        let option = format!("public.t WHERE ({filter})");
        let error = stream.try_get("peek", &[("row-filter", &option)]).expect_err(filter);
        assert_eq!(error.code().unwrap().code(), "22023", "{filter}: {error:?}");
        let detail = error.as_db_error().unwrap().detail().unwrap_or_default().to_owned();
        assert!(detail.contains(reason), "{filter}: {detail}");
    }
    // One that is an error for some rows only.
    let error = stream
        .try_get("peek", &[("row-filter", "public.t WHERE (10 / (id - 1) > 2)")])
        .expect_err("division by zero");
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "22023");
    assert_eq!(
        error.message(),
        "row filter of table public.t cannot be evaluated for a row: (10 / (id - 1) > 2)"
    );
    assert_eq!(error.detail(), Some("The server says: division by zero."));
    // A value that the old row lacks.
    let error = stream
        .try_get("peek", &[("row-filter", "public.t WHERE (v = 1)")])
        .expect_err("v is in no key");
    assert!(
        error.as_db_error().unwrap().message().contains("UPDATE and DELETE"),
        "{error:?}"
    );
    let inserts = [("row-filter", "public.t WHERE (v = 1)"), ("operations", "insert")];
    assert_eq!(stream.rows(&inserts).len(), 1);
}

#[test]
fn partitions_are_told_as_their_root() {
    let mut stream = Stream::new(
        "partitions",
        "CREATE TABLE root (id int, v text, gone int, PRIMARY KEY (id)) PARTITION BY RANGE (id); ALTER TABLE root DROP gone;
         CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (10);
         CREATE TABLE high (v text, id int NOT NULL, PRIMARY KEY (id)); ALTER TABLE root ATTACH PARTITION high FOR VALUES FROM (10) TO (20)",
    );
    stream.run(&[
        "INSERT INTO root VALUES (1, 'a'), (11, 'b')",
        "UPDATE root SET id = 2 WHERE id = 1",
        "TRUNCATE root",
    ]);
    let options = [
        ("publish-via-root", "1"),
        ("include-tables", "public.root"),
        ("include-xids", "0"),
    ];
    let mut lines = stream.try_get("peek", &options).unwrap();
    lines.retain(|line| line.starts_with("table"));
    assert_eq!(
        lines,
        [
            "table public.root: INSERT: id[integer]:1 v[text]:'a'",
            "table public.root: INSERT: id[integer]:11 v[text]:'b'",
            "table public.root: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 v[text]:'a'",
            "table public.root: TRUNCATE: (no-flags)",
        ]
    );
    // What is to be kept back under a name that the rows are not told by would be told.
    for options in [
        [("exclude-tables", "public.root"), ("publish-via-root", "0")],
        [("mask-columns", "public.root(v null)"), ("publish-via-root", "0")],
        [("row-filter", "public.root WHERE (id > 5)"), ("publish-via-root", "0")],
        [("mask-columns", "public.low(v null)"), ("publish-via-root", "1")],
        [("exclude-columns", "public.high(v)"), ("publish-via-root", "1")],
    ] {
        let told = stream.try_get("peek", &options).expect_err("it would be told");
        assert_eq!(sqlstate(&told), Some("22023"), "{options:?}: {told:?}");
    }
    let both = "public.root(v null), public.low(v null), public.high(v null)";
    for via_root in ["0", "1"] {
        let lines = stream.try_get("peek", &[("mask-columns", both), ("publish-via-root", via_root)]);
        assert!(lines.unwrap().iter().all(|line| !line.contains("'a'")));
    }
    assert_eq!(stream.rows(&[("exclude-tables", "public.other")]).len(), 4);
}

#[test]
fn origins_by_name() {
    let mut stream = Stream::new("by_origin", "CREATE TABLE t (id int PRIMARY KEY)");
    for (id, origin) in [(3, "one"), (4, "Two")] {
        stream.run(&[
            &format!("SELECT pg_replication_origin_create('{origin}')"),
            &format!("SELECT pg_replication_origin_session_setup('{origin}')"),
            &format!("INSERT INTO t VALUES ({id})"),
            "SELECT pg_replication_origin_session_reset()",
        ]);
    }
    stream.run(&["INSERT INTO t VALUES (1), (2)", "UPDATE t SET id = 30 WHERE id = 3"]);
    let mut count = |origins: &str| {
        let lines = stream.try_get("peek", &[("origins", origins)]).unwrap();
        lines.iter().filter(|line| line.starts_with("table")).count()
    };
    assert_eq!(count("any"), 5);
    assert_eq!(count("none"), 3);
    assert_eq!(count("one, absent"), 1);
    assert_eq!(count("\"Two\""), 1);
    let error = stream
        .try_get("peek", &[("only-local", "1"), ("origins", "one")])
        .expect_err("both say the same");
    assert!(
        error.as_db_error().unwrap().message().contains("contradict"),
        "{error:?}"
    );
}
