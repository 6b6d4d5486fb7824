//! What `synod stream` reads of sinks, of the server and of the user, and how it writes values for consumers: pure functions, which
//! know no connection and no file. Whatever bytes come, nothing here panics, and nothing takes more memory than its limits say; every
//! file that reads has a fuzzer (`fuzz/src/bin/sink_*.rs`).

#![forbid(unsafe_code)]

pub mod calendar;
pub mod debezium;
pub mod http;
pub mod lsn;
pub mod nats;
pub mod position;
pub mod redis;
pub mod replication;
pub mod template;
pub mod timeline;
pub mod url;
