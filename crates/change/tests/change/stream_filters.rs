//! What readers of the stream ask to be told.

use synod_change::stream::Filters;
use synod_change::stream::filters::{Mask, Origins};

fn filters(options: &[(&str, &str)]) -> Filters {
    let mut filters = Filters::default();
    for (name, value) in options {
        assert!(filters.set(name, Some(value.as_bytes())).unwrap(), "{name}");
    }
    filters
}

#[test]
fn tables_are_included_and_excluded() {
    let filters = filters(&[
        ("include-tables", "public.*, sales.order_*"),
        ("exclude-tables", "*.secret"),
    ]);
    for (schema, table, wanted) in [
        ("public", "t", true),
        ("public", "secret", false),
        ("sales", "order_lines", true),
        ("sales", "customers", false),
    ] {
        assert_eq!(
            filters.wants_table(schema.as_bytes(), table.as_bytes()),
            wanted,
            "{schema}.{table}"
        );
    }
}

#[test]
fn the_first_entry_that_matches_a_table_counts() {
    let filters = filters(&[
        ("columns", "public.users(id, n*), *.*(id)"),
        ("exclude-columns", "public.users(name)"),
        ("mask-columns", "public.users(note hash, \"Odd\" 'it''s', nil null)"),
        (
            "row-filter",
            "public.users WHERE (a > 1 AND b = ')('), *.* where (true)",
        ),
    ]);
    let wants = |table: &[u8], column: &[u8]| filters.wants_column(b"public", table, column);
    assert!(wants(b"users", b"id") && wants(b"users", b"note") && !wants(b"users", b"name") && !wants(b"users", b"x"));
    assert!(wants(b"other", b"id") && !wants(b"other", b"note"));
    let mask = |column: &[u8]| filters.mask(b"public", b"users", column);
    assert_eq!(mask(b"note"), Some(&Mask::Hash));
    assert_eq!(mask(b"Odd"), Some(&Mask::Text(b"it's".to_vec())));
    assert_eq!(mask(b"nil"), Some(&Mask::Null));
    assert_eq!(mask(b"id"), None);
    assert_eq!(
        filters.row_filter(b"public", b"users"),
        Some(&b"a > 1 AND b = ')('"[..])
    );
    assert_eq!(filters.row_filter(b"x", b"y"), Some(&b"true"[..]));
}

#[test]
fn a_column_that_is_not_there_is_named() {
    let options = [
        ("mask-columns", "public.users(ssn hash, x* null)"),
        ("exclude-columns", "*.users(pin)"),
        ("columns", "public.orders(id)"),
    ];
    let filters = filters(&options);
    let missing = |table: &[u8], columns: &[&[u8]]| filters.missing_column(b"public", table, columns);
    assert_eq!(missing(b"users", &[b"id", b"ssn"]), None);
    assert_eq!(
        missing(b"users", &[b"id", b"ssn_new"]),
        Some(("mask-columns", b"ssn".to_vec()))
    );
    assert_eq!(missing(b"orders", &[b"key"]), Some(("columns", b"id".to_vec())));
}

/// What is kept from the reader is kept by every entry: none is passed over because another one came first.
#[test]
fn all_entries_keep_columns_from_the_reader() {
    let filters = filters(&[
        (
            "mask-columns",
            "public.users(note hash), *.*(ssn null, note null), public.users(pin null)",
        ),
        ("exclude-columns", "public.users(a), public.users(b), *.*(c)"),
    ]);
    let mask = |column: &[u8]| filters.mask(b"public", b"users", column);
    assert_eq!(mask(b"note"), Some(&Mask::Hash));
    assert_eq!((mask(b"ssn"), mask(b"pin")), (Some(&Mask::Null), Some(&Mask::Null)));
    assert!(
        [b"a", b"b", b"c"]
            .iter()
            .all(|column| !filters.wants_column(b"public", b"users", *column))
    );
}

#[test]
fn what_could_never_count_is_refused() {
    for (option, value, message) in [
        ("columns", "a.b(c), *.*(d), A.b(e)", "names table a.b twice"),
        (
            "row-filter",
            "\"A\".b* WHERE (x), \"A\".b* WHERE (y)",
            "names table \"A\".b* twice",
        ),
        (
            "mask-columns",
            "a.b(c hash), a.b(d null, c null)",
            "names column c of table a.b twice",
        ),
    ] {
        let error = Filters::default().set(option, Some(value.as_bytes())).expect_err(value);
        assert_eq!(error.message, format!("option \"{option}\" {message}"));
        assert!(!error.hint.is_empty());
    }
}

#[test]
fn values_that_make_no_sense_say_what_was_expected() {
    for (option, value, hint) in [
        ("include-tables", "orders", "a table with its schema"),
        ("include-tables", "", "a name at the end"),
        ("exclude-tables", "a.b c.d", "a comma at \"c.d\""),
        ("columns", "a.b", "columns in parentheses"),
        ("columns", "a.b(c", "a closing parenthesis"),
        ("mask-columns", "a.b(c)", "null, hash"),
        ("mask-columns", "a.b(c 'x)", "closing quote"),
        ("row-filter", "a.b (x)", "WHERE"),
        ("row-filter", "a.b WHERE (x", "closing parenthesis"),
        ("operations", "insert, upsert", "truncate"),
        ("origins", "a*", "names of replication origins"),
        ("origins", "none, foo", "any, none, or names"),
        ("origins", "foo, any", "any, none, or names"),
    ] {
        let error = Filters::default().set(option, Some(value.as_bytes())).expect_err(value);
        assert!(error.hint.contains(hint), "{option} = {value}: {error:?}");
    }
    assert_eq!(Filters::default().set("format", None), Ok(false));
    let origins = filters(&[("origins", "a, \"B\"")]).origins;
    assert_eq!(origins, Origins::Named(vec![b"a".to_vec(), b"B".to_vec()]));
    assert_eq!(filters(&[("origins", " None ")]).origins, Origins::None);
}
