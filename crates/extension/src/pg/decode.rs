//! The output plugin `synod` for logical decoding: the change stream of this database.
//!
//! The server calls the functions registered here in the process that reads a slot: a walsender, or a backend that runs
//! `pg_logical_slot_get_changes` and its like. Neither group nor preloading is needed.
//!
//! - `session`: what one reader asked for and where it is;
//! - `rows`: whether a row is told, and as what; `row_filter`, `origins`: conditions on it;
//! - `tables`, `shape`: tables, read once per definition (`invalidation` says when it has changed);
//! - `values`: rows to values; `message_row`: rows that messages hold;
//! - `transaction`: the server's transactions to ours; `ids`: what events are called;
//! - `messages`: logical messages, among them those of our own;
//! - `environment`: what formats need to know of the server;
//! - `strong`: replicated tables, told record by record;
//! - `utf8`: what is left to convert for formats that want UTF-8;
//! - `output`: bytes to the reader.

mod callbacks;
mod environment;
mod ids;
mod invalidation;
mod message_row;
mod messages;
mod origins;
mod output;
mod row_filter;
mod rows;
mod session;
mod shape;
mod strong;
mod tables;
mod transaction;
mod utf8;
mod values;

use pgrx::{pg_guard, pg_sys};

/// What the server looks up by name when a slot is made or read with the plugin `synod`.
#[allow(non_snake_case, reason = "PostgreSQL's name for it")]
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: the server passes the structure to fill in.
    unsafe { callbacks::register(&mut *callbacks) }
}
