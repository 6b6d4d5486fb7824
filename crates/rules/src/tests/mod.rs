//! The certifier against a plain restatement of its rules, against tables of cases, and against faults put into it.

mod cases;
mod checkpoint;
mod histories;
mod mutants;
mod oracle;
mod trimming;
