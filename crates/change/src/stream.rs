//! The change stream: what a reader of logical decoding is told, and the formats it can be told in.
//!
//! The server's side (the extension's `pg/decode`) turns what was decoded into [`Event`]s, one at a time and in the order in
//! which transactions committed; a format writes each into the bytes of one message. Formats are pure: they see no server,
//! and what they write depends on nothing but the events so far and their options.

pub mod event;

pub use event::{Change, Column, Ddl, Event, EventId, Message, ReplicaIdentity, Table, Transaction, TypeClass};
