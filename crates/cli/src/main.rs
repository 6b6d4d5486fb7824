//! The command `synod`: forms groups, shows what they do, finds and mends what is wrong. It speaks SQL to the nodes, as
//! any client does, and keeps nothing of its own.

mod arguments;
mod failure;
mod group;
mod output;
mod session;
mod status;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use failure::exit;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let common = &arguments.common;
    let done = match &arguments.command {
        Command::Status(options) => status::run(common, options),
    };
    let code = done.unwrap_or_else(|failure| {
        if common.json {
            println!("{:#}", failure.json());
        } else {
            eprintln!("{}", failure.text());
        }
        exit::FAILED
    });
    ExitCode::from(code)
}
