//! One suite for every implementation of [`synod_log::SharedLog`], run against the model in memory and against the
//! log over Multi-Paxos.

mod memory;
mod network;
mod paxos;
mod suite;
mod world;
