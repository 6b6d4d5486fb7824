//! What was granted of which sequence: `synod.sequence_range` (table_id, column_number, node_id, first_value, last_value, csn).
//!
//! A sequence is known in the group by the columns that it feeds. One row per column and node: what that node was granted
//! last. The row with the highest CSN says up to where values were granted at all. Written in the order of the log only: by
//! apply workers, and by the transaction that lets a sequence begin again.

use std::collections::BTreeSet;

use pgrx::pg_sys;
use synod_change::{Grant, TableId};

use super::own_table::{Condition, OwnTable, Row};
use crate::pg::apply::Origin;
use crate::pg::range_table::Range;

const TABLE: i16 = 1;
const COLUMN: i16 = 2;
const NODE: i16 = 3;
const FIRST: i16 = 4;
const LAST: i16 = 5;
const CSN: i16 = 6;

/// A column that a sequence feeds: its table and its number in the group's order.
pub type Feed = (TableId, u16);

fn open(lock: u32) -> Option<OwnTable> {
    OwnTable::open(c"sequence_range", c"sequence_range_pkey", lock)
}

fn of_feed(feed: Feed) -> [Condition; 2] {
    let (table, column) = feed;
    [
        Condition::equal(TABLE, pg_sys::F_INT8EQ, pg_sys::Datum::from(table.0)),
        Condition::equal(COLUMN, pg_sys::F_INT4EQ, pg_sys::Datum::from(i32::from(column))),
    ]
}

fn of_node(feed: Feed, node: u32) -> [Condition; 3] {
    let [table, column] = of_feed(feed);
    [
        table,
        column,
        Condition::equal(NODE, pg_sys::F_INT4EQ, pg_sys::Datum::from(node as i32)),
    ]
}

fn number(row: &Row<'_>, column: i16) -> i64 {
    row.get(column).value() as i64
}

/// The last value that was granted to anybody.
fn latest(table: &OwnTable, feeds: impl IntoIterator<Item = Feed>) -> Option<i64> {
    let mut latest: Option<(i64, i64)> = None;
    for feed in feeds {
        table.scan(&of_feed(feed), false, |row| {
            latest = latest.max(Some((number(row, CSN), number(row, LAST))));
            true
        });
    }
    latest.map(|(_, last)| last)
}

/// In the apply worker: give values to the node that asked, if there are any.
pub fn grant(grant: &Grant, origin: Origin) {
    let Some(table) = open(pg_sys::RowExclusiveLock) else {
        return;
    };
    let feeds: BTreeSet<Feed> = grant.feeds.iter().copied().collect();
    let Some((first, last)) = grant.range(latest(&table, feeds.iter().copied())) else {
        return;
    };
    for feed in feeds {
        let mut values = [
            pg_sys::Datum::from(feed.0.0),
            pg_sys::Datum::from(i32::from(feed.1)),
            pg_sys::Datum::from(origin.node as i32),
            pg_sys::Datum::from(first),
            pg_sys::Datum::from(last),
            pg_sys::Datum::from(origin.csn),
        ];
        let mut known = false;
        table.scan(&of_node(feed, origin.node), false, |row| {
            row.replace(&mut values);
            known = true;
            false
        });
        if !known {
            table.insert(&mut values);
        }
    }
}

/// What was granted to a node at this CSN, once that is applied.
pub fn granted_at(feed: Feed, node: u32, csn: u64) -> Option<Range> {
    let table = open(pg_sys::AccessShareLock)?;
    let found = table.first(&of_node(feed, node), false, |row| {
        let range = Range {
            first: number(row, FIRST),
            last: number(row, LAST),
        };
        (number(row, CSN) as u64, range)
    });
    found.filter(|(at, _)| *at == csn).map(|(_, range)| range)
}

/// The last value that was granted to anybody, as far as applied here.
pub fn granted(feeds: &[Feed]) -> Option<i64> {
    latest(&open(pg_sys::AccessShareLock)?, feeds.iter().copied())
}

/// Nothing was granted: the sequence that feeds these columns begins again, or is no longer the group's.
pub fn forget(feeds: &[Feed]) {
    let Some(table) = open(pg_sys::RowExclusiveLock) else {
        return;
    };
    for feed in feeds {
        table.scan(&of_feed(*feed), false, |row| {
            row.delete();
            true
        });
    }
}

/// What was granted to one column is known of others from here on, unless they know of later grants.
pub fn hand_down(from: Feed, to: &[Feed]) {
    let Some(table) = open(pg_sys::RowExclusiveLock) else {
        return;
    };
    let mut granted: Vec<Vec<pg_sys::Datum>> = Vec::new();
    table.scan(&of_feed(from), false, |row| {
        granted.push((TABLE..=CSN).map(|column| row.get(column)).collect());
        true
    });
    for heir in to {
        for values in &granted {
            let mut values = values.clone();
            values[TABLE as usize - 1] = pg_sys::Datum::from(heir.0.0);
            values[COLUMN as usize - 1] = pg_sys::Datum::from(i32::from(heir.1));
            let node = values[NODE as usize - 1].value() as u32;
            let csn = values[CSN as usize - 1].value() as i64;
            let mut known = false;
            table.scan(&of_node(*heir, node), false, |row| {
                known = true;
                if number(row, CSN) < csn {
                    row.replace(&mut values);
                }
                false
            });
            if !known {
                table.insert(&mut values);
            }
        }
    }
}

/// The column with this number goes, and those behind it move up by one.
pub fn renumber(id: TableId, gone: u16) {
    let Some(table) = open(pg_sys::RowExclusiveLock) else {
        return;
    };
    table.scan(&of_feed((id, gone)), false, |row| {
        row.delete();
        true
    });
    let [of_table, _] = of_feed((id, gone));
    let behind = Condition {
        column: COLUMN,
        strategy: pg_sys::BTGreaterStrategyNumber,
        function: pg_sys::F_INT4GT,
        value: pg_sys::Datum::from(i32::from(gone)),
    };
    // In ascending order, so that no row takes the number of one that is still there.
    table.scan(&[of_table, behind], false, |row| {
        let mut values: Vec<pg_sys::Datum> = (TABLE..=CSN).map(|column| row.get(column)).collect();
        values[COLUMN as usize - 1] = pg_sys::Datum::from(number(row, COLUMN) as i32 - 1);
        row.replace(&mut values);
        true
    });
}
