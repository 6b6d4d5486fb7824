//! Making way for a statement of another node that something on this node only keeps from succeeding (`ddl/in_the_way.rs`).
//!
//! A temporary object is its session's, and the group does not wait for that: the session ends, as one does on a standby that is in
//! recovery's way, and the statement is tried again. A temporary object that a crash has left is dropped. Whatever else there is, is the
//! business of whoever runs the node: the reason why apply stopped names it, and what takes it out of the way.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;

use super::{Failure, guarded};
use crate::pg::ddl::in_the_way::{self, Obstacle};
use crate::pg::scratch::ActiveSnapshot;
use crate::pg::{latch, server, shmem};

/// How long sessions may take to end, over all tries.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one try waits for them.
const EACH: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// So many obstacles are named.
const NAMED: usize = 3;

/// Sessions that were told to end since apply last got on.
#[derive(Default)]
pub struct Ways {
    since: Option<Instant>,
    told: Vec<i32>,
}

impl Ways {
    /// A failure, and what can be done about it.
    pub fn make(&mut self, failure: Failure) -> Failure {
        let obstacles = in_the_way::take();
        let temporary: Vec<&Obstacle> = obstacles.iter().filter(|obstacle| obstacle.is_temporary()).collect();
        if temporary.is_empty() {
            return advise(failure, &obstacles);
        }
        if self.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            let pids: Vec<String> = temporary
                .iter()
                .filter_map(|it| it.holder())
                .map(|(_, pid)| pid.to_string())
                .collect();
            return failure.with_advice(&format!(
                "Processes that should have ended are in the way: {}",
                pids.join(", ")
            ));
        }
        for obstacle in &temporary {
            match obstacle.holder() {
                Some((number, pid)) => self.end(number, pid, obstacle),
                // Somebody else may have dropped it meanwhile: the next try sees.
                None => drop(guarded(|| {
                    let _snapshot = ActiveSnapshot::push();
                    obstacle.drop_it();
                    Ok(())
                })),
            }
        }
        let until = Instant::now() + EACH;
        while Instant::now() < until && temporary.iter().any(|obstacle| obstacle.holder().is_some()) {
            latch::reset();
            latch::check_for_interrupts();
            latch::wait(LOOK_EVERY);
        }
        failure.that_passes()
    }

    fn end(&mut self, number: i32, pid: i32, obstacle: &Obstacle) {
        if let Some(slot) = shmem::slot(number) {
            slot.ended_for_temporary.store(pid, Ordering::SeqCst);
        }
        if !self.told.contains(&pid) {
            self.told.push(pid);
            pgrx::ereport!(
                LOG,
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!("terminating process {pid}: its temporary object is in the way of a statement of another node"),
                format!("It is {} {}.", obstacle.kind, obstacle.name)
            );
        }
        server::terminate(pid);
    }
}

fn advise(failure: Failure, obstacles: &[Obstacle]) -> Failure {
    if obstacles.is_empty() {
        return failure;
    }
    let named: Vec<String> = obstacles
        .iter()
        .take(NAMED)
        .map(|obstacle| match obstacle.command() {
            Some(command) => format!("{command};"),
            None => format!("drop {} {};", obstacle.kind, obstacle.name),
        })
        .collect();
    let more = obstacles.len().saturating_sub(NAMED);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" (and {more} more)")
    };
    failure.with_advice(&format!(
        "To go on here: SET synod.ddl = local; {}{more}",
        named.join(" ")
    ))
}
