//! Undoing what a failed or cancelled attempt to become a member has done so far.
//!
//! Each step notes itself before or after it was taken, so that its undoing finds something or nothing; undoing goes
//! backwards, over connections of its own (those of the attempt may be in the middle of something), and never raises:
//! what cannot be undone is reported as a warning with what to do.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;

use pgrx::prelude::*;

use super::{site, wait};
use crate::errors::UserError;
use crate::pg::client::Client;
use crate::pg::{progress, server};

/// What has been done.
#[derive(Default)]
pub struct Steps {
    /// The node's own dsn, once something in this database was committed: its origin, and copied rows if the flag is set.
    pub prepared: Option<(String, bool)>,
    /// The dsn of the member that was asked to admit this node, the node's log, and what proves that it may ask.
    pub admitted: Option<(String, String, String)>,
    /// The directory is in its place and the workers may run.
    pub opened: bool,
}

/// Do `work`; undo its steps if it fails, is cancelled or panics.
pub fn undone_on_failure<T>(work: impl FnOnce(&RefCell<Steps>) -> Result<T, UserError>) -> Result<T, UserError> {
    let steps = RefCell::new(Steps::default());
    let undo = AssertUnwindSafe(&steps);
    let again = AssertUnwindSafe(&steps);
    let work = AssertUnwindSafe(work);
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        let AssertUnwindSafe(work) = work;
        work(&steps)
    }))
    .catch_others(move |cause| {
        undo.take().undo();
        cause.rethrow()
    })
    .catch_rust_panic(move |cause| {
        again.take().undo();
        cause.rethrow()
    })
    .execute();
    if result.is_err() {
        steps.take().undo();
    }
    result
}

impl Steps {
    fn undo(self) {
        let database = server::database();
        if self.opened {
            let ended = wait::for_workers_to_end(database).and_then(|()| site::demolish(database));
            warn(
                "could not take this node's directory away",
                ended.err().map(|error| error.message),
            );
            wait::for_place_to_be_free(database);
        }
        if let Some((dsn, copied)) = &self.prepared {
            let copied = copied.to_string();
            let let_help = |client: &Client| progress::let_help(client.backend_pid());
            let outcome = tell(dsn, let_help, "SELECT synod._forget($1)", &[Some(&copied)]);
            warn(
                "could not undo what was prepared in this database; call synod.leave_group() to try again",
                outcome,
            );
        }
        if let Some((via, log, proof)) = &self.admitted {
            let outcome = tell(via, |_| (), "SELECT synod._expel($1, $2)", &[Some(log), Some(proof)]);
            warn(
                "could not take this node out of the group; call synod.remove_node on another node",
                outcome,
            );
        }
    }
}

fn tell(dsn: &str, prepare: impl FnOnce(&Client), sql: &str, parameters: &[Option<&str>]) -> Option<String> {
    let told = Client::connect_hastily(dsn, "synod membership").and_then(|mut client| {
        prepare(&client);
        client.query(sql, parameters)
    });
    told.err().map(|error| error.message)
}

fn warn(what: &str, error: Option<String>) {
    if let Some(error) = error {
        pgrx::warning!("{what}: {error}");
    }
}
