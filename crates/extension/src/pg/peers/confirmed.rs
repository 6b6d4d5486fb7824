//! The members that have confirmed a table, from the question until the transaction is over: who has replicated a table is told so when
//! they have it, too.
//!
//! It runs behind the commit, where nothing may fail and interrupts are held: a cancel is looked for, and ends the wait, as the
//! deadline does. The transaction still has its locks: when apply needs one on this node, the rest is cut short. A node that has not
//! followed by then is named in a warning. Nothing is lost there: it has applied the lock, so that writers of the table wait until it has
//! followed.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, pg_sys};

use crate::errors::UserError;
use crate::pg::client::Client;
use crate::pg::slot::Slot;
use crate::pg::{latch, submit};

/// How long all of them may take together.
const PATIENCE: Duration = Duration::from_secs(5);
/// And how long when this node needs what the transaction has locked.
const HURRY: Duration = Duration::from_millis(200);
/// How often one is asked.
const ASK_EVERY: Duration = Duration::from_millis(5);
const QUESTION: &str = "SELECT (applied_csn >= $1::pg_catalog.int8)::pg_catalog.text FROM synod.stat_apply";

thread_local! {
    static CONFIRMED: RefCell<Vec<(String, Client)>> = const { RefCell::new(Vec::new()) };
}

/// This member has confirmed.
pub fn remember(name: &str, client: Client) {
    CONFIRMED.with_borrow_mut(|confirmed| {
        if confirmed.iter().all(|(known, _)| known != name) {
            confirmed.push((name.to_owned(), client));
        }
    });
}

/// The transaction, whose record was in this slot, has committed at `csn`: wait until those who confirmed have applied that.
pub fn wait_until_applied(csn: u64, slot: &Slot) {
    if CONFIRMED.with_borrow(Vec::is_empty) {
        return;
    }
    let mut wait = Wait {
        slot,
        doomed: slot.doomed.load(Ordering::SeqCst),
        deadline: Instant::now() + PATIENCE,
    };
    // The server begins anew to count at an error; but the commit goes on, and lets go of what it holds.
    // SAFETY: a counter of this process.
    let held = unsafe { pg_sys::InterruptHoldoffCount };
    for (name, client) in CONFIRMED.take() {
        let asked = std::panic::AssertUnwindSafe(|| applied(client, csn, &mut wait));
        // The transaction is committed, whatever happens here.
        let followed = PgTryBuilder::new(asked)
            .catch_others(|_| false)
            .catch_rust_panic(|_| false)
            .execute();
        // SAFETY: as above.
        unsafe { pg_sys::InterruptHoldoffCount = held };
        if !followed {
            warn(&name);
        }
    }
}

/// At the end of every transaction.
pub fn forget() {
    if CONFIRMED.with_borrow(|confirmed| !confirmed.is_empty()) {
        drop(CONFIRMED.take());
    }
}

/// How long the wait may go on.
struct Wait<'a> {
    slot: &'a Slot,
    /// Who was to give way before it began.
    doomed: u64,
    deadline: Instant,
}

impl Wait<'_> {
    /// Shorter from when on somebody waits for what this transaction has locked.
    fn deadline(&mut self) -> Instant {
        let doomed = self.slot.doomed.load(Ordering::SeqCst);
        if doomed != self.doomed {
            self.doomed = doomed;
            self.deadline = self.deadline.min(Instant::now() + HURRY);
        }
        self.deadline
    }
}

fn applied(mut client: Client, csn: u64, wait: &mut Wait<'_>) -> bool {
    let csn = csn.to_string();
    loop {
        let deadline = wait.deadline();
        client.hurry_until(deadline);
        match client.query(QUESTION, &[Some(&csn)]) {
            Ok(rows) if rows.first().and_then(|row| row.first()?.as_deref()) == Some("true") => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
        if Instant::now() >= deadline || submit::interrupted() {
            return false;
        }
        latch::wait(ASK_EVERY);
        latch::reset();
    }
}

fn warn(name: &str) {
    UserError::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("node {name} has not followed yet"),
        "The transaction is committed. On that node writers of the table wait until it has, and readers may not see its rows.",
        "See synod.stat_apply there.",
    )
    .report(PgLogLevel::WARNING);
}
