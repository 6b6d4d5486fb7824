//! Services: what a session asks the group to do at once, whatever becomes of its transaction (as with nextval).
//!
//! ```text
//! backend:               check -> record into its slot -> wait for the decision -> wait until it is applied -> read what came of it
//! every apply worker:    in the record's turn, write the extension's own tables (`log`, `range`)
//! ```
//!
//! The record goes the way of a transaction's, with the same exactly-once; but nobody commits it: the apply worker of every
//! node, the asking one included, carries it out, so that what comes of it is a function of the log and the caller's locks
//! and snapshot do not matter. What a caller is told: an ordinary error means that nothing was proposed; 08007 that the
//! outcome is unknown; and what was decided stays, though the caller rolls back.

use std::sync::atomic::Ordering;
use std::time::Instant;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::{BodyWriter, Change, Service};

use super::apply::Origin;
use super::barrier::wait;
use super::capture::{self, Sealed, SealedBody};
use super::shmem::NodeShared;
use super::submit::{self, By};
use super::xact;
use crate::errors::{self, UserError};
use crate::local_key::LocalKey;

pub mod draws;
pub mod grants;
pub mod log;
mod own_table;
pub mod ranges;
pub mod reservations;
pub mod restarts;

/// Refuse where nothing may be written: in a read-only transaction, on a standby, in a parallel worker, and in the apply worker
/// itself, which would wait for what only it can do. `what` is the function's name.
pub fn check_may_write(what: &std::ffi::CStr) -> Result<(), UserError> {
    // SAFETY: each raises or returns.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(what.as_ptr());
        pg_sys::PreventCommandIfReadOnly(what.as_ptr());
        pg_sys::PreventCommandIfParallelMode(what.as_ptr());
    }
    if capture::applying() {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "cannot call {} while changes of the group are applied",
                what.to_string_lossy()
            ),
            "It would wait for this very process.",
            "Do not call it from functions of indexes and constraints.",
        ));
    }
    Ok(())
}

/// Have the group decide the service and this node carry it out. Returns its CSN.
pub fn call(node: &'static NodeShared, service: Service, keys: Vec<LocalKey>) -> Result<u64, UserError> {
    super::give_way::check()?;
    if node.origin.load(Ordering::Acquire) == 0 {
        // The apply worker has not begun.
        return Err(errors::starting());
    }
    // An append without a condition is done again by who repeats it.
    let once = matches!(&service, Service::Append(append) if append.after.is_none());
    let mut body = BodyWriter::new();
    body.write(&Change::Service(Box::new(service)));
    let sealed = Sealed {
        keys,
        body: SealedBody::Inline(body.finish()),
        rows: 0,
        told: None,
    };
    let number = node.transactions.fetch_add(1, Ordering::Relaxed) + 1;
    let submitted = submit::submit(node, number, sealed, By::Apply)?;
    let id = submit::record_id(node, submitted.slot());
    let csn = submit::wait_for_decision(node, &submitted)?;
    let deadline = Instant::now() + submit::commit_timeout();
    wait::applied(node, csn, deadline).map_err(|error| not_seen(error, csn, &id, once))?;
    xact::saw(csn);
    Ok(csn)
}

/// It is decided, but what came of it could not be waited for. `once`: so whoever asked must not be told to ask again.
fn not_seen(error: UserError, csn: u64, id: &str, once: bool) -> UserError {
    if error.code == PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE && !once {
        return UserError {
            detail: format!(
                "{} What was asked for stands in the shared log at CSN {csn}.",
                error.detail
            ),
            ..error
        };
    }
    errors::unknown(
        id,
        &format!(
            "The group has decided it at CSN {csn}, but this node has not applied it: {}.",
            error.message
        ),
    )
}

/// In the apply worker, in the record's turn.
pub fn carry_out(service: Service, origin: Origin) {
    match service {
        Service::Append(append) => log::append(append, origin),
        Service::Trim { log, before } => log::trim(&log, before),
        Service::Grant(grant) => grants::grant(&grant, origin),
    }
}
