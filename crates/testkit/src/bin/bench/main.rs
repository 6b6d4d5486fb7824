//! `make bench`: Synod beside one plain server and beside PostgreSQL's own quorum synchronous replication.
//!
//! Short slices of every contestant in an order that changes with each round, so that all of them meet the same
//! neighbours; what counts is the ratio within a round. Writes `docs/benchmarks.md` and the figures of every slice
//! beside it.
//!
//! ```text
//! make bench BENCH='--rounds 7 --slice 4 --scale 10 --incidents 5 --only plain,quorum,synod --out docs'
//! ```

#![forbid(unsafe_code)]

mod breakdown;
mod contestant;
mod incident;
mod report;
mod slice;

use std::path::PathBuf;
use std::process::ExitCode;

use synod_testkit::Rng;

use crate::breakdown::{Breakdown, Scene};
use crate::contestant::{Contestant, Kind};
use crate::slice::{Case, Measured};

/// What is asked for on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often every case is measured.
    pub rounds: u32,
    /// Seconds of one slice.
    pub slice_s: u32,
    /// `pgbench`'s scale.
    pub scale: u32,
    /// How often the leader is killed; half as often a follower is.
    pub incidents: u32,
    /// Who takes part.
    pub only: Vec<Kind>,
    /// Where the results go.
    pub out: PathBuf,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rounds: 7,
            slice_s: 4,
            scale: 10,
            incidents: 5,
            only: Kind::ALL.to_vec(),
            out: PathBuf::from("docs"),
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let number = || {
                value
                    .parse::<u32>()
                    .map_err(|_| format!("{word} {value}: not a number"))
            };
            match word.as_str() {
                "--rounds" => options.rounds = number()?,
                "--slice" => options.slice_s = number()?,
                "--scale" => options.scale = number()?,
                "--incidents" => options.incidents = number()?,
                "--only" => options.only = value.split(',').map(Kind::parse).collect::<Result<_, _>>()?,
                "--out" => options.out = PathBuf::from(value),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        if options.rounds == 0 || options.slice_s == 0 || options.scale == 0 || options.only.is_empty() {
            return Err("--rounds, --slice, --scale and --only must not be nothing".into());
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("bench: {reason}");
            return ExitCode::from(2);
        }
    };
    let mut contestants: Vec<Contestant> = options
        .only
        .iter()
        .map(|kind| {
            println!("preparing: {}", kind.title());
            Contestant::prepare(*kind, options.scale)
        })
        .collect();

    let measured = measure(&options, &contestants);
    let breakdowns: Vec<Breakdown> = contestants
        .iter()
        .filter_map(|contestant| match contestant {
            Contestant::Synod(cluster) => Some(cluster),
            Contestant::Plain(_) | Contestant::Quorum(..) => None,
        })
        .flat_map(|cluster| Scene::ALL.map(|scene| breakdown::run(cluster, scene)))
        .collect();
    let mut incidents = incident::Incidents::default();
    for contestant in &mut contestants {
        incidents.extend(incident::run(contestant, options.incidents));
    }
    match report::write(&options, &measured, &breakdowns, &incidents) {
        Ok(path) => {
            println!("written: {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: cannot write the results: {error}");
            ExitCode::FAILURE
        }
    }
}

/// All rounds; within a round every case once, shuffled.
fn measure(options: &Options, contestants: &[Contestant]) -> Vec<Measured> {
    let mut random = Rng::new(u64::from(std::process::id()));
    let mut all = Vec::new();
    for round in 1..=options.rounds {
        let mut turns: Vec<(usize, Case)> = (0..contestants.len())
            .flat_map(|number| contestants[number].cases().into_iter().map(move |case| (number, case)))
            .collect();
        for last in (1..turns.len()).rev() {
            let other = random.below(last as u64 + 1) as usize;
            turns.swap(last, other);
        }
        for (turn, (number, case)) in turns.iter().enumerate() {
            let measured = slice::run(&contestants[*number], case, round, options.slice_s);
            println!(
                "round {round}/{} {:>2}/{}  {:<14} {:<7} {:>2} clients {:>8.0} tps  p50 {:>7.2} ms  p99 {:>8.2} ms{}",
                options.rounds,
                turn + 1,
                turns.len(),
                case.column.name(),
                case.workload.name(),
                case.clients,
                measured.tps,
                measured.p50_ms,
                measured.p99_ms,
                measured
                    .complaint
                    .as_ref()
                    .map_or_else(String::new, |text| format!("  ! {text}"))
            );
            all.push(measured);
        }
    }
    all
}
