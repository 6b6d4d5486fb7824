//! What goes wrong during the day, one fault after the other, each over before the next.

use std::time::{Duration, Instant};

use synod_testkit::{Cluster, Rng, Server, StopMode, let_pass, wait_until};

use crate::verdict::Notes;

/// A server starts all its processes anew within this, also on a busy machine.
const RESTART_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The server loses its power.
    Kill,
    /// The same, after a while in which nothing of its WAL was flushed in the background.
    KillUnflushed,
    /// An immediate restart.
    Immediate,
    /// A fast restart.
    Fast,
    /// The whole server is silent for a while.
    Freeze,
    /// One of its processes that others wait for is.
    FreezeProcess,
    /// One of its processes is killed: it starts all of them anew.
    KillProcess,
    /// Any of its sessions and workers are canceled.
    Cancel,
    /// Any are terminated.
    Terminate,
    /// A checkpoint.
    Checkpoint,
}

/// The more a fault is worth the more often it is here.
const FAULTS: [Fault; 12] = [
    Fault::Kill,
    Fault::Kill,
    Fault::KillUnflushed,
    Fault::Immediate,
    Fault::Fast,
    Fault::Freeze,
    Fault::FreezeProcess,
    Fault::FreezeProcess,
    Fault::KillProcess,
    Fault::Cancel,
    Fault::Terminate,
    Fault::Checkpoint,
];

/// Those whom others wait for.
const FREEZABLE: [&str; 4] = ["synod log worker", "synod apply worker", "walwriter", "checkpointer"];

/// Random faults of random nodes until `end`.
pub fn strike(cluster: &mut Cluster, mut rng: Rng, end: Instant, notes: &Notes) {
    while Instant::now() < end {
        let_pass(millis(500, 2500, &mut rng));
        let node = usize::try_from(rng.below(cluster.len() as u64)).expect("few nodes");
        let fault = one_of(&FAULTS, &mut rng);
        println!("n{}: {fault:?}", node + 1);
        notes.done(&format!("fault: {fault:?}"));
        strike_server(cluster.server_mut(node), fault, &mut rng, notes);
    }
}

fn strike_server(server: &mut Server, fault: Fault, rng: &mut Rng, notes: &Notes) {
    match fault {
        Fault::Kill => {
            server.kill9();
            let_pass(millis(0, 3000, rng));
            server.start();
        }
        Fault::KillUnflushed => {
            let writers = server.processes_titled("walwriter");
            writers.iter().for_each(|pid| server.pause_process(*pid));
            let_pass(millis(1000, 2000, rng));
            server.kill9();
            server.start();
        }
        Fault::Immediate => server.restart(StopMode::Immediate),
        Fault::Fast => server.restart(StopMode::Fast),
        Fault::Freeze => {
            server.pause();
            let_pass(millis(1000, 4000, rng));
            server.resume();
        }
        Fault::FreezeProcess => {
            let title = one_of(&FREEZABLE, rng);
            if let Some(pid) = server.processes_titled(title).into_iter().next() {
                server.pause_process(pid);
                let_pass(millis(500, 3000, rng));
                server.resume_process(pid);
            }
        }
        Fault::KillProcess => kill_process(server, rng),
        Fault::Cancel => signal(server, "pg_cancel_backend", notes),
        Fault::Terminate => signal(server, "pg_terminate_backend", notes),
        Fault::Checkpoint => ask(server, "CHECKPOINT", notes),
    }
}

fn kill_process(server: &Server, rng: &mut Rng) {
    let processes = server.processes_titled("postgres: ");
    if processes.is_empty() {
        return;
    }
    server.kill9_process(one_of(&processes, rng));
    wait_until(RESTART_DEADLINE, "a server to be there again", || {
        let mut client = server.try_client("postgres").ok()?;
        client.batch_execute("SELECT 1").ok()
    });
}

/// Without a checkpointer a server goes on, and no fast shutdown ends: that one is left alone.
fn signal(server: &Server, function: &str, notes: &Notes) {
    let sql = format!(
        "SELECT count({function}(pid)) FROM (SELECT pid FROM pg_stat_activity
           WHERE pid <> pg_backend_pid() AND backend_type <> 'checkpointer' ORDER BY random() LIMIT 2) s"
    );
    ask(server, &sql, notes);
}

fn ask(server: &Server, sql: &str, notes: &Notes) {
    let outcome = server
        .try_client("postgres")
        .and_then(|mut client| client.batch_execute(sql));
    if let Err(error) = outcome {
        notes.error("fault", &error);
    }
}

fn millis(least: u64, more: u64, rng: &mut Rng) -> Duration {
    Duration::from_millis(least + rng.below(more))
}

fn one_of<T: Copy>(choices: &[T], rng: &mut Rng) -> T {
    choices[usize::try_from(rng.below(choices.len() as u64)).expect("few choices")]
}
