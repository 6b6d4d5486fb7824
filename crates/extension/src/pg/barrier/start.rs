//! The first write of a server's life: a crash takes unflushed local commits with it, and with them the advance of sequences.
//! The log gives the rows back, and apply the sequences; until that is done a sequence could give out a value again, and where
//! no unique index covers it nobody would notice. A write that reads nothing passes no barrier otherwise; this one does.
//!
//! `caught_up` holds for the server's life: what commits later advances the sequences first.

use std::sync::atomic::Ordering;
use std::time::Instant;

use pgrx::pg_sys;

use super::wait;
use crate::errors::{self, UserError};
use crate::pg::relation;
use crate::pg::shmem::{self, NodeShared, NodeState};

/// Before a query is started: if it writes a strong table, sequences must be where the group's log has them.
///
/// # Safety
/// `plan` is the plan of a query about to start.
pub unsafe fn before_write(plan: *const pg_sys::PlannedStmt) -> Result<(), UserError> {
    if is_done() {
        return Ok(());
    }
    // SAFETY: by contract.
    let concerned = unsafe {
        let writes = (*plan).commandType != pg_sys::CmdType::CMD_SELECT || (*plan).hasModifyingCTE;
        writes && super::reads_strong_table(plan)
    };
    if concerned {
        catch_up(crate::node::required()?)
    } else {
        Ok(())
    }
}

/// As [`before_write`], before COPY into a table.
pub fn before_copy_into(relation: pg_sys::Oid) -> Result<(), UserError> {
    if is_done() || !relation::is_strong(relation) {
        return Ok(());
    }
    catch_up(crate::node::required()?)
}

/// A member that has only just started is not even known here yet: then it is not done.
fn is_done() -> bool {
    shmem::shared().is_none() || shmem::my_node().is_some_and(|node| node.caught_up.load(Ordering::Acquire))
}

fn catch_up(node: &NodeShared) -> Result<(), UserError> {
    let deadline = wait::read_deadline();
    // Until its `Start` stands in the log, records of before the crash may still be decided.
    while node.state() == NodeState::Starting {
        if Instant::now() >= deadline {
            return Err(errors::starting());
        }
        crate::group::wait::moment();
    }
    wait::caught_up(node, deadline)?;
    node.caught_up.store(true, Ordering::Release);
    Ok(())
}
