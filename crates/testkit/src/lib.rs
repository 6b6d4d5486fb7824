//! Real PostgreSQL clusters, faults and checkers: what every integration test of Synod stands on.
//!
//! The crate speaks SQL only; it knows the extension by its functions and views, never by its code.
//!
//! - [`PgInstall`]: which PostgreSQL is under test, and whether the extension is installed in it;
//! - [`Run`]: the temporary directory of this test process and the guard that outlives it;
//! - [`Server`]: one PostgreSQL server: start, stop, SIGKILL, SIGSTOP, its log;
//! - [`Network`]: one network namespace per server, links that can be cut in one direction;
//! - [`Cluster`]: servers that form a group;
//! - [`command`]: the command `synod`;
//! - [`broker`]: NATS and Redis, which the change stream is sent to;
//! - [`wait_until`]: the only way a test waits for something; [`let_pass`]: how long a fault lasts;
//! - [`Session`]: a client that retries what may be retried and asks what became of the rest;
//! - [`pgbench`]: a load, and what became of it;
//! - [`Ledger`]: writes of many clients and what they were told, to be compared with what is there;
//! - [`run_script`]: SQL that must do on a group what it does on a plain database;
//! - [`fetch_source`]: tests of other projects, to be run against ours;
//! - [`probe`]: one client that feels every pause;
//! - [`random_transactions`]: everything that makes replication difficult, in any order;
//! - [`history`]: what clients saw, and the checkers that judge it.

#![forbid(unsafe_code)]

mod account;
pub mod broker;
mod cluster;
pub mod command;
mod converge;
mod crash;
mod disk;
mod frozen;
pub mod history;
mod identifier;
mod install;
mod ledger;
pub mod machine;
mod network;
pub mod pgbench;
mod ports;
pub mod probe;
mod processes;
pub mod random_transactions;
mod refusal;
mod rng;
mod run;
mod script;
mod server;
mod session;
mod shared;
mod sources;
pub mod spread;
mod stopper;
mod wait;

pub use account::Account;
pub use cluster::{Cluster, Node, Options};
pub use converge::{apply_past, assert_converged, assert_sound, checksum};
pub use disk::Disk;
pub use install::PgInstall;
pub use ledger::Ledger;
pub use network::Network;
pub use refusal::{failed, refused};
pub use rng::Rng;
pub use run::Run;
pub use script::run_script;
pub use server::{Server, StopMode};
pub use session::{Failure, Outcome, Session, sqlstate};
pub use shared::SharedCluster;
pub use sources::{fetch_source, fetch_wal2json};
pub use stopper::Stopper;
pub use wait::{let_pass, try_wait_until, wait_until};
