//! The PostgreSQL extension `synod`: strongly consistent tables that several servers write.
//!
//! How a transaction travels: `capture` (triggers) -> `xact` (pre-commit: record into the backend's slot) -> `log_worker`
//! (certify, propose, decide) -> `turn` (commit in turn) here, `apply_worker` on the other nodes. Readers pass `barrier` first.

use pgrx::prelude::*;

pub mod audit;
pub mod comparison;
pub mod context;
pub mod decode;
pub mod engine;
pub mod errors;
pub mod group;
pub mod handshake;
pub mod identity;
pub mod local_key;
pub mod membership;
pub mod named_log;
pub mod node;
pub mod pg;
pub mod sequences;
pub mod settings;
pub mod status;
pub mod stream_key;
pub mod table;
pub mod text;
pub mod transport;

/// This release, as major * 10,000 + minor * 100 + patch.
pub const VERSION_NUMBER: u32 = 100;

pgrx::pg_module_magic!();

/// Set up settings, shared memory, hooks and the launcher. Outside `shared_preload_libraries` the library loads, but every
/// function refuses with a hint.
#[allow(non_snake_case, reason = "PostgreSQL's name for it")]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::keep_backtraces_from_clients();
    settings::define();
    // SAFETY: reads a global of this process.
    if !pg::preloading() {
        return;
    }
    // A server that cannot tell that it is a copy must not run as the original.
    if let Err(error) = identity::mark_copies(&pg::data_directory()) {
        errors::UserError::from(error).raise_fatal();
    }
    pg::shmem::init();
    pg::hooks::init();
    // What workers write then would not be in the server that comes of it, and the transactions that they take would be given out there
    // once more.
    if !pg::upgrading() {
        pg::launcher::register();
    }
}
