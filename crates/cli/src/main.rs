//! The command `synod`: forms groups, shows what they do, finds and mends what is wrong. It speaks SQL to the nodes, as
//! any client does, and keeps nothing of its own.

mod arguments;
mod compare;
mod doctor;
mod failure;
mod frozen;
mod group;
mod membership;
mod output;
mod repair;
mod rows;
mod session;
mod status;
mod stream;
mod top;

use std::io::Write;

use clap::Parser;
use signal_hook::low_level;

use arguments::{Arguments, Command};
use failure::exit;

fn main() {
    let arguments = Arguments::parse();
    let common = &arguments.common;
    let done = match &arguments.command {
        Command::Status(options) => status::run(common, options),
        Command::Top(options) => top::run(common, options),
        Command::Doctor(options) => doctor::run(common, options),
        Command::Create(options) => membership::create(common, options),
        Command::Join(options) => membership::join(common, options),
        Command::Rejoin(options) => membership::rejoin(common, options),
        Command::Move(options) => membership::move_node(common, options),
        Command::Leave(options) => membership::leave(common, options),
        Command::Compare(options) => compare::run(common, options),
        Command::Repair(options) => repair::run(common, options),
        Command::Stream(options) => stream::run(common, options),
    };
    let code = done.unwrap_or_else(|failure| {
        if common.json {
            println!("{:#}", failure.json());
        } else {
            eprintln!("{}", failure.text());
        }
        exit::FAILED
    });
    // What cannot be written has no reader, as everywhere else in what is printed.
    let _ = std::io::stdout().flush();
    // Not through the handlers of libraries at exit: a thread that waits for a node that does not answer may still be within one of them, and
    // would find its locks gone.
    low_level::exit(code.into());
}
