//! The tables of a group in a database that joins it: compared, copied, and replicated from then on.

use std::sync::atomic::Ordering;

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use synod_change::{TableDefinition, TableId};

use crate::errors::UserError;
use crate::pg::client::{Client, explain};
use crate::pg::copy::{self, TableLock};
use crate::pg::libpq::PqError;
use crate::pg::relcache::Relation;
use crate::pg::replicable;
use crate::pg::{progress, server, turn};
use crate::text::from_hex;

/// How many differing tables an error names.
const MAX_NAMED: usize = 10;

/// Tables of the extension whose content is a function of the applied CSN (`pg/service.rs`), and their columns.
const SERVICE_TABLES: [(&str, &[&str]); 2] = [
    (
        "log_entry",
        &["log", "round", "csn", "node_id", "appended_at", "value_type", "value"],
    ),
    (
        "sequence_range",
        &[
            "table_id",
            "column_number",
            "node_id",
            "first_value",
            "last_value",
            "csn",
        ],
    ),
];

/// A table of the group.
struct Table {
    definition: TableDefinition,
}

/// The group's tables as the session of `client` sees them: in a transaction with an imported snapshot, those as of its CSN.
fn of_group(client: &mut Client) -> Result<Vec<Table>, PqError> {
    let rows = client.query(
        "SELECT t.table_id, synod._table_definition(t.table_id, t.relation) FROM synod.replicated_table AS t \
         ORDER BY t.table_id",
        &[],
    )?;
    let unreadable = |id: &str| PqError {
        message: format!("cannot read the definition of table {id}"),
        detail: Some("The table was dropped, or the node runs another version of synod.".into()),
        sqlstate: Some("55000".into()),
        hint: None,
    };
    rows.into_iter()
        .map(|row| {
            let mut columns = row.into_iter().map(Option::unwrap_or_default);
            let (id, bytes) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
            let bytes = bytes
                .strip_prefix("\\x")
                .and_then(from_hex)
                .ok_or_else(|| unreadable(&id))?;
            TableDefinition::decode(&bytes)
                .map(|definition| Table { definition })
                .map_err(|_| unreadable(&id))
        })
        .collect()
}

/// Refuse unless every table of the group is here, alike, and empty unless its rows are to be `replaced`.
fn check(tables: &[Table], node: &str, lock: TableLock, replaced: bool) -> Result<Vec<Relation>, UserError> {
    let (here, missing) = look_up(tables, lock);
    if !missing.is_empty() {
        return Err(refused(
            "tables of the group are missing in this database",
            listed("Missing", missing),
            "Create them as they are on the other nodes, empty (pg_dump --schema-only helps), then join again.",
        ));
    }
    compare(&here, node, replaced)?;
    Ok(here.into_iter().map(|(relation, _)| relation).collect())
}

/// The tables of the group that are here, and the names of those that are not.
fn look_up(tables: &[Table], lock: TableLock) -> (Vec<(Relation, &Table)>, Vec<String>) {
    let mut here = Vec::new();
    let mut missing = Vec::new();
    for table in tables {
        match copy::open_table(&table.definition.schema, &table.definition.name, lock) {
            Some(relation) => here.push((relation, table)),
            None => missing.push(table.name()),
        }
    }
    (here, missing)
}

/// Refuse tables that are defined differently, or have rows that are not to be `replaced`.
fn compare(here: &[(Relation, &Table)], node: &str, replaced: bool) -> Result<(), UserError> {
    let numbers: Vec<(pg_sys::Oid, TableId)> = here
        .iter()
        .map(|(relation, table)| (relation.oid(), table.definition.id))
        .collect();
    let number_of = |oid: pg_sys::Oid| numbers.iter().find(|(known, _)| *known == oid).map(|(_, id)| *id);
    let mut differences = Vec::new();
    let mut full = Vec::new();
    for (relation, table) in here {
        replicable::check_member(relation)?;
        let local = copy::table_definition(table.definition.id, relation, &number_of);
        let found = local.differences_to(&table.definition, &format!("on node \"{node}\""));
        differences.extend(
            found
                .into_iter()
                .map(|difference| format!("{}: {difference}", table.name())),
        );
        if !replaced && differences.is_empty() && !table.is_own() && has_rows(&table.name()) {
            full.push(table.name());
        }
    }
    if !differences.is_empty() {
        return Err(refused(
            "tables of the group are defined differently in this database",
            listed("Differences", differences),
            "Make the definitions equal, then join again.",
        ));
    }
    if !full.is_empty() {
        return Err(refused(
            "tables of the group are not empty in this database",
            listed("With rows", full),
            "Their rows come from the group: TRUNCATE them here (or move the rows away), then join again.",
        ));
    }
    Ok(())
}

fn refused(message: &str, detail: String, hint: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message,
        detail,
        hint,
    )
}

fn listed(what: &str, names: Vec<String>) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let named = names.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        format!("{what}: {named}; and {more} more.")
    } else {
        format!("{what}: {named}.")
    }
}

fn has_rows(table: &str) -> bool {
    let found = Spi::get_one::<bool>(&format!("SELECT EXISTS (SELECT FROM ONLY {table})"));
    matches!(found, Ok(Some(true)))
}

/// Refuse while tables are known as replicated although this database is no member: a server that crashed in the middle of
/// joining leaves that behind, and so does a node whose directory was taken away. Whether the rows may go is for the user
/// to say.
pub fn check_no_traces() -> Result<(), UserError> {
    let left = Spi::get_one::<i64>("SELECT pg_catalog.count(*) FROM synod.replicated_table");
    if !matches!(left, Ok(Some(1..))) {
        return Ok(());
    }
    Err(refused(
        "this database has traces of an earlier membership",
        "It is not a member of a group now, but its tables are marked as replicated; nobody keeps them up to date."
            .into(),
        "Call synod.leave_group() to forget the membership, then TRUNCATE the tables, or move their rows away, and join.",
    ))
}

/// Remove the rows that are to be replaced. Readers of this node wait until the new ones are there.
fn truncate(tables: &[Table]) -> Result<(), UserError> {
    if tables.iter().all(|table| table.definition.partitioned_by.is_some()) {
        return Ok(());
    }
    let stored = tables.iter().filter(|table| table.definition.partitioned_by.is_none());
    let names: Vec<String> = stored.map(Table::name).collect();
    Spi::run(&format!("TRUNCATE ONLY {}", names.join(", ONLY "))).map_err(|error| {
        refused(
            "the rows of the replicated tables cannot be replaced",
            format!("{error}."),
            "Remove what stands in the way, then call synod.rejoin_group().",
        )
    })
}

/// Bytes of the group's tables at the source.
fn size(client: &mut Client) -> Result<u64, PqError> {
    let rows = client.query(
        "SELECT coalesce(pg_catalog.sum(pg_catalog.pg_table_size(t.relation)), 0) FROM synod.replicated_table AS t",
        &[],
    )?;
    Ok(rows
        .first()
        .and_then(|row| row.first()?.as_ref()?.parse().ok())
        .unwrap_or(0))
}

/// Remove the rows of tables that are not replicated any more.
pub fn empty(tables: &[pg_sys::Oid]) {
    copy::write_as_replica();
    for table in tables {
        let name = Spi::get_one_with_args::<String>("SELECT $1::regclass::text", &[(*table).into()]);
        if let Ok(Some(name)) = name
            && let Err(error) = Spi::run(&format!("DELETE FROM ONLY {name}"))
        {
            pgrx::warning!("could not remove the rows copied into {name}: {error}");
        }
    }
}

impl Table {
    fn name(&self) -> String {
        pgrx::spi::quote_qualified_identifier(&self.definition.schema, &self.definition.name)
    }

    /// Of the extension: what an earlier membership left in it is of no use.
    fn is_own(&self) -> bool {
        self.definition.schema == "synod"
    }

    /// Columns that are not generated, in the order in which they travel.
    fn columns(&self) -> Vec<String> {
        let stored = self
            .definition
            .columns
            .iter()
            .filter(|column| column.generated.is_none());
        stored.map(|column| column.name.clone()).collect()
    }
}

/// `synod._check_tables`: refuse what `_copy_tables` would refuse; the tables of the group that are missing here. `replace`: all
/// of them if any is missing or defined differently: the node has missed a change of a definition.
#[pg_extern(sql = false)]
fn check_tables(via: &str, node: &str, replace: bool) -> SetOfIterator<'static, String> {
    let checked = || -> Result<Vec<String>, UserError> {
        super::check_under_way()?;
        let whom = format!("node \"{node}\"");
        let mut client = Client::connect(via, "synod copy").map_err(|error| explain(error, &whom))?;
        let tables = of_group(&mut client).map_err(|error| explain(error, &whom))?;
        let (here, missing) = look_up(&tables, TableLock::Look);
        match compare(&here, node, replace) {
            _ if replace && !missing.is_empty() => Ok(own_to_users(&tables)),
            Err(_) if replace => Ok(own_to_users(&tables)),
            compared => compared.map(|()| missing),
        }
    };
    SetOfIterator::new(checked().unwrap_or_else(|error| error.raise()))
}

/// Names of the tables that are not the extension's own.
fn own_to_users(tables: &[Table]) -> Vec<String> {
    tables.iter().filter(|table| !table.is_own()).map(Table::name).collect()
}

/// `synod._release_tables`: the tables of a node that was set aside are ordinary ones, until the end of a transaction that
/// makes it a node again.
#[pg_extern(sql = false)]
fn release_tables() {
    let released = super::check_under_way().and_then(|()| super::rejoin::check_set_aside());
    released.unwrap_or_else(|error| error.raise());
    copy::unreplicate_all();
}

/// `synod._copy_tables`: copy the group's tables as of an exported snapshot of the node behind `via`, which shows the records
/// up to `csn`, and replicate them from the end of this transaction on. `replace`: what this database has of them goes.
#[pg_extern(sql = false)]
fn copy_tables(via: &str, snapshot: &str, node: &str, csn: i64, replace: bool) {
    copied(via, snapshot, node, csn, replace).unwrap_or_else(|error| error.raise());
}

fn copied(via: &str, snapshot: &str, node: &str, csn: i64, replace: bool) -> Result<(), UserError> {
    super::check_under_way()?;
    copy::tell(csn as u64);
    if replace {
        super::rejoin::check_set_aside()?;
        copy::unreplicate_all();
    } else {
        super::check_not_member()?;
    }
    let whom = format!("node \"{node}\"");
    let told = |error| explain(error, &whom);
    let mut client = Client::connect(via, "synod copy").map_err(told)?;
    let begin = format!(
        "SET synod.read_consistency = local; SET row_security = off; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET TRANSACTION SNAPSHOT {}",
        pgrx::spi::quote_literal(snapshot)
    );
    client.execute(&begin).map_err(told)?;
    let tables = of_group(&mut client).map_err(told)?;
    copy::write_as_replica();
    let mut here = check(&tables, node, TableLock::Write, replace)?;
    if replace {
        // Open tables cannot be truncated; the locks stay.
        drop(here);
        truncate(&tables)?;
        here = check(&tables, node, TableLock::Write, false)?;
    }
    let shown = progress::mine();
    if let Some(shown) = shown {
        shown.tables_total.store(tables.len() as u64, Ordering::Relaxed);
        shown
            .bytes_total
            .store(size(&mut client).map_err(told)?, Ordering::Relaxed);
        progress::enter(progress::Phase::Copy);
    }
    for (table, relation) in tables.iter().zip(&here) {
        if table.definition.partitioned_by.is_some() {
            // Its partitions have the rows.
            continue;
        }
        if table.is_own() {
            copy::empty(relation);
        }
        if let Some(shown) = shown {
            shown.table.store(relation.oid().into(), Ordering::Relaxed);
        }
        client = copy_table(client, table, relation, &whom)?;
        if let Some(shown) = shown {
            shown.tables_done.fetch_add(1, Ordering::Relaxed);
        }
    }
    for (name, columns) in SERVICE_TABLES {
        client = copy_service_table(client, name, columns, &whom)?;
    }
    for (table, relation) in tables.iter().zip(&here) {
        copy::replicate(table.definition.id, relation);
    }
    let origin = turn::origin_name(server::database());
    if !replace {
        // A crashed attempt may have left it.
        copy::drop_origin(&origin);
    }
    copy::move_origin(&origin, csn as u64);
    Ok(())
}

/// Copy one table that has rows.
fn copy_table(mut client: Client, table: &Table, relation: &Relation, whom: &str) -> Result<Client, UserError> {
    let told = |error| explain(error, whom);
    if let Some((whole, sql)) = copy::whole(table.definition.id, relation) {
        client.begin_copy_out(&sql).map_err(told)?;
        copy::copy_whole(whole, &mut client, whom)?;
        return Ok(client);
    }
    let columns = table.columns();
    let list = columns
        .iter()
        .map(pgrx::spi::quote_identifier)
        .collect::<Vec<_>>()
        .join(", ");
    client
        .begin_copy_out(&format!("COPY {} ({list}) TO STDOUT", table.name()))
        .map_err(told)?;
    Ok(copy::copy_in(relation, &columns, client, whom))
}

/// Take over a table of the extension: what an earlier membership left goes.
fn copy_service_table(mut client: Client, name: &str, columns: &[&str], whom: &str) -> Result<Client, UserError> {
    let told = |error| explain(error, whom);
    let relation = copy::open_table("synod", name, TableLock::Write).ok_or_else(|| {
        refused(
            "a table of the extension is missing in this database",
            format!("There is no synod.{name}."),
            "Run the same version of synod on every node.",
        )
    })?;
    copy::empty(&relation);
    client
        .begin_copy_out(&format!("COPY synod.{name} ({}) TO STDOUT", columns.join(", ")))
        .map_err(told)?;
    let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    Ok(copy::copy_in(&relation, &columns, client, whom))
}
