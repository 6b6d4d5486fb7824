//! Which origins a reader wants, by name; rows have numbers.

use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::pg_sys;
use synod_change::stream::filters;

use super::invalidation;
use crate::pg::{server, turn};

/// What was found out about numbers. They may be given away anew: forgotten when an origin is made or dropped.
#[derive(Default)]
pub struct Origins {
    wanted: HashMap<u16, bool>,
    as_of: u64,
}

impl Origins {
    /// Whether changes of this origin are told.
    pub fn wants(&mut self, origin: u16, asked: &filters::Origins) -> bool {
        match asked {
            filters::Origins::Any => return true,
            _ if origin == 0 => return asked.wants(None),
            _ => {}
        }
        let now = invalidation::origins_changed();
        if self.as_of != now {
            self.as_of = now;
            self.wanted.clear();
        }
        *self.wanted.entry(origin).or_insert_with(|| {
            let name = name(origin);
            // That is how this node keeps its place in the group's log; what is committed with it was made here.
            let made_here = name == turn::origin_name(server::database()).as_bytes();
            asked.wants((!made_here).then_some(name.as_slice()))
        })
    }
}

/// Empty for one that is gone.
fn name(origin: u16) -> Vec<u8> {
    let mut name = std::ptr::null_mut();
    // SAFETY: inside a transaction; a palloc'd name, if the origin still exists.
    unsafe {
        if pg_sys::replorigin_by_oid(origin, true, &mut name) {
            CStr::from_ptr(name).to_bytes().to_vec()
        } else {
            Vec::new()
        }
    }
}
