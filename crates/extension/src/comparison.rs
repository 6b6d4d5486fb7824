//! SQL: what the command `synod` needs to compare and to repair tables (`pg/hold.rs`), and to look at the disk.

use std::time::Duration;

use pgrx::prelude::*;

use crate::pg::arguments::Arguments;
use crate::pg::{hold, relation, repair};

/// `synod._hold`: stops this node until the transaction ends, at most for so long; the CSN at which it is.
#[pg_extern(sql = false)]
fn hold_node(milliseconds: i32) -> i64 {
    let node = crate::node::required().unwrap_or_else(|error| error.raise());
    let time = Duration::from_millis(milliseconds.max(1).unsigned_abs().into());
    hold::begin(node, time).unwrap_or_else(|error| error.raise()) as i64
}

/// `synod._advance`: lets the held node go on to a CSN, and waits until it is there.
#[pg_extern(sql = false)]
fn advance_node(csn: i64) {
    let node = crate::node::required().unwrap_or_else(|error| error.raise());
    hold::advance(node, csn.unsigned_abs()).unwrap_or_else(|error| error.raise());
}

/// `synod._snapshot_at`: exports a snapshot of the CSN at which this transaction holds the node.
#[pg_extern(sql = false)]
fn snapshot_at(csn: i64) -> String {
    let node = crate::node::required().unwrap_or_else(|error| error.raise());
    hold::export_snapshot(node, csn.unsigned_abs()).unwrap_or_else(|error| error.raise())
}

/// `synod._release`: ends the hold.
#[pg_extern(sql = false)]
fn release_node() {
    hold::end();
}

/// `synod._begin_repair`
#[pg_extern(sql = false)]
fn begin_repair(table: pg_sys::Oid, csn: i64) {
    let node = crate::node::required().unwrap_or_else(|error| error.raise());
    if relation::by_oid(table).is_none() {
        crate::errors::UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the table is not replicated",
            "Only tables of the group can differ from the group.",
            "See synod.tables.",
        )
        .raise();
    }
    hold::begin_repair(node, table, csn.unsigned_abs()).unwrap_or_else(|error| error.raise());
}

/// `synod._put_row`: writes a row of another node into the table that this transaction repairs.
#[pg_extern(sql = false)]
fn put_row(fcinfo: pg_sys::FunctionCallInfo) {
    let row = Arguments::of(fcinfo).datum(0);
    let put = row.map_or(Ok(()), repair::put);
    put.unwrap_or_else(|error| error.raise());
}

/// `synod._travelling_form`: a value as it travels between nodes.
#[pg_extern(sql = false)]
fn travelling_form(fcinfo: pg_sys::FunctionCallInfo) -> Option<Vec<u8>> {
    Arguments::of(fcinfo).travelling_form(0)
}

/// `synod._of_travelling_form`: such a value, of the type of the second argument.
#[pg_extern(sql = false)]
fn of_travelling_form(fcinfo: pg_sys::FunctionCallInfo) -> Option<pgrx::AnyElement> {
    Arguments::of(fcinfo).of_travelling_form(0, 1)
}

/// `synod._disk`: how large the shared log of this node is on disk, and what is left there.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of an SQL function")]
fn disk() -> TableIterator<'static, (name!(log_bytes, i64), name!(free_bytes, i64), name!(total_bytes, i64))> {
    let directory = crate::node::directory(crate::pg::server::database());
    let files = std::fs::read_dir(directory.join("log")).into_iter().flatten().flatten();
    let log: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let space = crate::pg::server::disk_space(&directory);
    TableIterator::new(space.map(|(free, total)| (log as i64, free as i64, total as i64)))
}
