//! What this database forgets when it is no member any more, and what it prepares to become one.

use pgrx::prelude::*;

use crate::pg::service::log;
use crate::pg::{copy, server, turn};

/// `synod._set_origin`: make the replication origin that carries the applied CSN, at `csn` when this transaction commits.
#[pg_extern(sql = false)]
fn set_origin(csn: i64) {
    super::check_under_way()
        .and_then(|()| super::check_not_member())
        .unwrap_or_else(|error| error.raise());
    // A crashed attempt may have left it.
    copy::drop_origin(&turn::origin_name(server::database()));
    copy::move_origin(&turn::origin_name(server::database()), csn as u64);
    if csn == 0 {
        log::begin_group();
    }
}

/// `synod._release_origin`: this session is done with the origin that it made; the apply worker may have it.
#[pg_extern(sql = false)]
fn release_origin() {
    super::check_under_way().unwrap_or_else(|error| error.raise());
    turn::reset_origin();
}

/// `synod._forget`: no table of this database is replicated any more, and the applied CSN is gone. The tables keep their
/// rows, unless they were only `copied` from the group.
#[pg_extern(sql = false)]
fn forget(copied: bool) {
    super::check_under_way()
        .and_then(|()| super::check_not_member())
        .unwrap_or_else(|error| error.raise());
    tables_and_origin(copied);
}

/// See [`forget`]. True when there was anything.
pub fn tables_and_origin(empty_them: bool) -> bool {
    let tables = copy::unreplicate_all();
    if empty_them {
        super::tables::empty(&tables);
    }
    let origin = copy::drop_origin(&turn::origin_name(server::database()));
    origin || !tables.is_empty()
}
