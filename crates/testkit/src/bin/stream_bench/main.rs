//! `make bench-stream`: the change stream beside the output plugins that there are.
//!
//! Three questions: how fast a reader gets what has been written, what it costs writers that somebody reads, and what a large transaction
//! takes of the server's memory. All contestants read through `pg_recvlogical`, from the same place in the same WAL, in an order
//! that changes with each round; what counts is the ratio within a round. Writes `docs/benchmarks-stream.md` and the figures of
//! every measurement beside `docs/benchmarks.md`'s.
//!
//! ```text
//! make bench-stream STREAM='--rounds 5 --rows 1000000 --transactions 100000 --writer-rounds 20 --slice 3 --large-mb 1024 --out docs'
//! ```

#![forbid(unsafe_code)]

mod contestant;
mod memory;
mod rate;
mod report;
mod writers;

use std::path::PathBuf;
use std::process::ExitCode;

use synod_testkit::Rng;

use crate::contestant::Contestant;

/// What is asked for on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often everything is measured.
    pub rounds: u32,
    /// Rows of the one large transaction that is decoded.
    pub rows: u32,
    /// Small transactions that are.
    pub transactions: u32,
    /// How often writers are watched: what a reader costs them is small beside how much their rate varies.
    pub writer_rounds: u32,
    /// Seconds that they are each time.
    pub slice_s: u32,
    /// Size of the transaction of which memory is measured, in MB.
    pub large_mb: u32,
    /// Where the results go.
    pub out: PathBuf,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rounds: 5,
            rows: 1_000_000,
            transactions: 100_000,
            writer_rounds: 20,
            slice_s: 3,
            large_mb: 1024,
            out: PathBuf::from("docs"),
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            if word == "--out" {
                options.out = PathBuf::from(value);
                continue;
            }
            let number = value.parse().map_err(|_| format!("{word} {value}: not a number"))?;
            match word.as_str() {
                "--rounds" => options.rounds = number,
                "--rows" => options.rows = number,
                "--transactions" => options.transactions = number,
                "--writer-rounds" => options.writer_rounds = number,
                "--slice" => options.slice_s = number,
                "--large-mb" => options.large_mb = number,
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(options)
    }
}

/// A figure.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Which question.
    pub case: &'static str,
    /// Of whom.
    pub contestant: &'static str,
    /// In which round.
    pub round: u32,
    /// The answer.
    pub value: f64,
    /// Cores that processes of others used meanwhile.
    pub foreign_cores: f64,
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("stream_bench: {reason}");
            return ExitCode::from(2);
        }
    };
    let server = contestant::server();
    let mut measured = rate::run(&server, &options);
    measured.extend(writers::run(&server, &options));
    measured.extend(memory::run(&server, &options));
    match report::write(&options, &measured) {
        Ok(path) => {
            println!("written: {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("stream_bench: cannot write the results: {error}");
            ExitCode::FAILURE
        }
    }
}

/// All contestants, in an order of this round's own.
pub fn shuffled(random: &mut Rng, of: &[&'static Contestant]) -> Vec<&'static Contestant> {
    let mut turns = of.to_vec();
    for last in (1..turns.len()).rev() {
        turns.swap(last, random.below(last as u64 + 1) as usize);
    }
    turns
}

/// Says a figure while it is new.
pub fn told(measured: Measured, unit: &str) -> Measured {
    println!(
        "{:<28} round {}  {:<14} {:>12.0} {unit}",
        measured.case, measured.round, measured.contestant, measured.value
    );
    measured
}
