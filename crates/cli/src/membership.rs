//! `synod create`, `join`, `rejoin`, `move` and `leave`: what the functions of the same names do, with their progress.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::arguments::{Common, Create, Join, Leave, Move, Rejoin};
use crate::failure::{Failure, exit};
use crate::group::{connect, word};
use crate::session::{Session, Target};

/// How often the progress of a join is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Make a group of one node.
pub fn create(common: &Common, options: &Create) -> Result<u8, Failure> {
    let (_, mut session) = connect(common, "create")?;
    prepare(&mut session)?;
    let parameters = [Some(&*options.group), Some(&*options.node), Some(&*options.address)];
    session.rows("SELECT synod.create_group($1, $2, $3)", &parameters)?;
    let said = format!(
        "group \"{}\" is made; its only node is \"{}\"",
        options.group, options.node
    );
    done(
        common,
        &mut session,
        said,
        json!({ "group": options.group, "node": options.node }),
    )
}

/// Make the database a node of a group.
pub fn join(common: &Common, options: &Join) -> Result<u8, Failure> {
    let (target, mut session) = connect(common, "join")?;
    prepare(&mut session)?;
    let parameters = [Some(&*options.via), Some(&*options.node), Some(&*options.address)];
    with_progress(common, &target, || {
        session.rows("SELECT synod.join_group($1, $2, $3)", &parameters)
    })?;
    let word = word(&mut session)?;
    let group = word["facts"]["group_name"].as_str().unwrap_or_default();
    let tables = word["tables"].as_i64().unwrap_or_default();
    let said = format!(
        "node \"{}\" has joined group \"{group}\" and has {tables} tables of it",
        options.node
    );
    done(
        common,
        &mut session,
        said,
        json!({ "group": group, "node": options.node, "tables": tables }),
    )
}

/// Copy the tables of the group anew.
pub fn rejoin(common: &Common, options: &Rejoin) -> Result<u8, Failure> {
    let (target, mut session) = connect(common, "rejoin")?;
    let via = [options.via.as_deref()];
    with_progress(common, &target, || session.rows("SELECT synod.rejoin_group($1)", &via))?;
    let word = word(&mut session)?;
    let node = word["facts"]["node_name"].as_str().unwrap_or_default();
    let said = format!("node \"{node}\" has a fresh copy of the tables and follows the group again");
    done(common, &mut session, said, json!({ "node": node }))
}

/// A node has another address.
pub fn move_node(common: &Common, options: &Move) -> Result<u8, Failure> {
    let (_, mut session) = connect(common, "move")?;
    let parameters = [Some(&*options.node), Some(&*options.address)];
    session.rows("SELECT synod.alter_node($1, $2)", &parameters)?;
    let said = format!("node \"{}\" is reached at its new address from now on", options.node);
    done(common, &mut session, said, json!({ "node": options.node }))
}

/// End the membership of the database, or of another node.
pub fn leave(common: &Common, options: &Leave) -> Result<u8, Failure> {
    let (_, mut session) = connect(common, "leave")?;
    let said = match &options.node {
        Some(node) => {
            session.rows("SELECT synod.remove_node($1)", &[Some(node)])?;
            format!("node \"{node}\" is not a member any more")
        }
        None => {
            let force = if options.force { "true" } else { "false" };
            session.rows("SELECT synod.leave_group($1::pg_catalog.bool)", &[Some(force)])?;
            "this database is not a member any more; its tables keep their rows".into()
        }
    };
    done(
        common,
        &mut session,
        said,
        json!({ "left": options.node.as_deref().unwrap_or("this node") }),
    )
}

/// The extension, if it is not there yet: who may not create it is told so by the server.
fn prepare(session: &mut Session) -> Result<(), Failure> {
    let there = session.value("SELECT 1 FROM pg_extension WHERE extname = 'synod'", &[])?;
    if there.is_none() {
        session.execute("CREATE EXTENSION synod")?;
    }
    Ok(())
}

fn done(common: &Common, session: &mut Session, said: String, json: Value) -> Result<u8, Failure> {
    for notice in session.notices() {
        eprintln!("{}:  {}", notice.severity, notice.said.message);
        for (word, what) in [("DETAIL", notice.said.detail), ("HINT", notice.said.hint)] {
            if let Some(what) = what {
                eprintln!("{word}:  {what}");
            }
        }
    }
    if common.json {
        println!("{json:#}");
    } else {
        println!("{said}");
    }
    Ok(exit::GOOD)
}

/// Show how far it is while it runs, if anybody looks.
fn with_progress<R>(common: &Common, target: &Target, work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        if !common.json && std::io::stderr().is_terminal() {
            scope.spawn(|| show_progress(target, &over));
        }
        let outcome = work();
        over.store(true, Ordering::Relaxed);
        outcome
    })
}

/// A bar while tables are copied, as far as the server tells; otherwise only that something goes on.
fn show_progress(target: &Target, over: &AtomicBool) {
    let bar = ProgressBar::new_spinner().with_message("joining");
    let mut watcher = target.connect("join progress").ok();
    while !over.load(Ordering::Relaxed) {
        let seen = watcher.as_mut().and_then(|session| {
            session.patience = Duration::from_secs(2);
            session.json(PROGRESS, &[]).ok()
        });
        match seen {
            Some(progress) if progress["bytes_total"].as_u64().unwrap_or(0) > 0 => {
                if let Ok(style) = ProgressStyle::with_template("{msg:24} {bar:30} {bytes}/{total_bytes} {eta}") {
                    bar.set_style(style);
                }
                bar.set_length(progress["bytes_total"].as_u64().unwrap_or(0));
                bar.set_position(progress["bytes_processed"].as_u64().unwrap_or(0));
                bar.set_message(progress["phase"].as_str().unwrap_or("joining").to_owned());
            }
            Some(progress) => {
                if let Some(phase) = progress["phase"].as_str() {
                    bar.set_message(phase.to_owned());
                }
                bar.tick();
            }
            None => {
                // A server that does not tell need not be asked again.
                watcher = None;
                bar.tick();
            }
        }
        thread::sleep(LOOK_EVERY);
    }
    bar.finish_and_clear();
}

const PROGRESS: &str = "SELECT coalesce((SELECT row_to_json(p) FROM synod.stat_progress_join AS p \
                        WHERE p.datname = current_database()), '{}')";
