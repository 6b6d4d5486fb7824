//! SQL: which tables are replicated.

use pgrx::prelude::*;

use crate::pg::{catalog, definition, relation, relcache::Relation, replicable, replicate};

/// `synod.replicate_table(regclass)`
#[pg_extern(sql = false)]
fn replicate_table(table: pg_sys::Oid) {
    if let Err(error) = replicate::begin(table) {
        error.raise();
    }
}

/// `synod._replicate_own_tables()`
#[pg_extern(sql = false)]
fn replicate_own_tables() {
    crate::group::check_under_way().unwrap_or_else(|error| error.raise());
    let begun = catalog::named("synod", replicable::STRONG_OF_OUR_OWN).map_or(Ok(()), replicate::begin);
    if let Err(error) = begun {
        error.raise();
    }
}

/// `synod.unreplicate_table(regclass)`
#[pg_extern(sql = false)]
fn unreplicate_table(table: pg_sys::Oid) {
    if let Err(error) = replicate::end(table) {
        error.raise();
    }
}

/// `synod.table_definition(text, text)`: what another node wants to know before it replicates a table; no row when there is
/// no such table.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of a function")]
fn table_definition(
    schema_name: &str,
    table_name: &str,
) -> TableIterator<
    'static,
    (
        name!(definition, Vec<u8>),
        name!(is_empty, bool),
        name!(is_replicated, bool),
    ),
> {
    let relation =
        catalog::named(schema_name, table_name).and_then(|oid| Relation::open_locked(oid, pg_sys::AccessShareLock));
    let row = relation.map(|relation| {
        let number = catalog::number_of(relation.oid());
        let definition = definition::of(&relation, number.unwrap_or_default(), &catalog::number_of);
        (definition.encode(), !catalog::has_rows(&relation), number.is_some())
    });
    TableIterator::new(row)
}

/// `synod.table_identity(regclass)`: the columns by which rows are found again; NULL when it is all of them, or when the
/// table is not replicated.
#[pg_extern(sql = false)]
fn table_identity(table: pg_sys::Oid) -> Option<Vec<String>> {
    let table = relation::by_oid(table)?;
    table.identity_index?;
    Some(
        table
            .identity
            .iter()
            .map(|column| table.columns[*column].name.clone())
            .collect(),
    )
}
