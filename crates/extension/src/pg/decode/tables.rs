//! The shapes of tables that a reader has met, each until its definition changes.

use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys;

use super::invalidation::{self, Stale};
use super::shape::{self, Shape};
use crate::decode::Options;
use crate::errors::UserError;

/// Shapes by the oid of the relation that has the rows.
#[derive(Default)]
pub struct Tables {
    shapes: HashMap<u32, Rc<Shape>>,
    /// Of the row before.
    last: Option<(u32, Rc<Shape>)>,
    versions: u64,
}

impl Tables {
    /// The shape of a relation as of now.
    ///
    /// # Safety
    /// In a callback that was passed the relation, or has it open.
    pub unsafe fn shape(&mut self, relation: pg_sys::Relation, options: &mut Options) -> Result<Rc<Shape>, UserError> {
        // SAFETY: by contract.
        let oid = unsafe { (*relation).rd_id.to_u32() };
        if invalidation::any() {
            for stale in invalidation::take() {
                self.forget(stale, options);
            }
        }
        if let Some((last, shape)) = &self.last
            && *last == oid
        {
            return Ok(Rc::clone(shape));
        }
        let shape = match self.shapes.get(&oid) {
            Some(shape) => Rc::clone(shape),
            None => {
                self.versions += 1;
                // SAFETY: by contract.
                let shape = Rc::new(unsafe { shape::load(relation, self.versions, options) }?);
                self.shapes.insert(oid, Rc::clone(&shape));
                shape
            }
        };
        self.last = Some((oid, Rc::clone(&shape)));
        Ok(shape)
    }

    fn forget(&mut self, stale: Stale, options: &mut Options) {
        self.last = None;
        self.shapes.retain(|oid, shape| {
            let stays = match stale {
                Stale::All | Stale::Type(0) => false,
                // What is told of a partition is also its root's.
                Stale::Relation(relation) => {
                    let above = shape.table.above.as_ref().map(|(oid, _)| *oid);
                    *oid != relation && shape.table.oid != relation && above != Some(relation)
                }
                Stale::Type(hash) => !shape.type_hashes.contains(&hash),
            };
            if !stays {
                options.format.forget(shape.table.version);
            }
            stays
        });
    }
}
