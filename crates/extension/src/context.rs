//! SQL: what the application says about its transactions.

use pgrx::prelude::*;

use crate::pg::arguments::Arguments;
use crate::pg::context::values;

/// `synod.set_context(jsonb)`
#[pg_extern(sql = false)]
fn set_context(fcinfo: pg_sys::FunctionCallInfo) {
    if let Err(error) = values::add(&Arguments::of(fcinfo)) {
        error.raise();
    }
}
