//! Rows and truncations: whether the reader is told of one, and as what.

use std::convert::Infallible;
use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::stream::filters::Operations;
use synod_change::stream::{Change, Emptied, Event, Place};
use synod_change::{DecodeError, Row};

use super::row_filter;
use super::session::{Call, Session};
use super::shape::Shape;
use super::strong::{self, Standing};
use super::values::RowBuffer;
use crate::errors::UserError;
use crate::pg::compat;
use crate::pg::relcache::Relation;

/// A version of a row, as the server or a message of ours holds it.
#[derive(Clone, Copy)]
pub(super) enum Version<'a> {
    Tuple(pg_sys::HeapTuple),
    Message(&'a Relation, &'a [u8]),
}

impl Version<'_> {
    /// `None`: there is none.
    fn decoded(tuple: pg_sys::HeapTuple) -> Option<Self> {
        (!tuple.is_null()).then_some(Self::Tuple(tuple))
    }

    /// `not_told`: what did not change may be missing.
    ///
    /// # Safety
    /// A row of a relation with this shape and descriptor; see [`RowBuffer::take_apart`].
    unsafe fn take_apart(
        self,
        shape: &Shape,
        descriptor: pg_sys::TupleDesc,
        not_told: bool,
        buffer: &mut RowBuffer,
    ) -> Result<(), DecodeError> {
        // SAFETY: by contract.
        unsafe {
            match self {
                Self::Tuple(tuple) => buffer.take_apart(tuple, descriptor),
                Self::Message(relation, bytes) => {
                    shape.message_rows(relation).take_apart(bytes, not_told, buffer)?;
                }
            }
        }
        Ok(())
    }
}

/// What a row is told as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Insert,
    Update,
    Delete,
}

impl Session {
    /// One row.
    pub unsafe fn row(&mut self, call: Call, relation: pg_sys::Relation, change: *mut pg_sys::ReorderBufferChange) {
        // SAFETY: in a callback that was passed these.
        unsafe {
            let (lsn, xid) = ((*change).lsn, (*(*change).txn).xid.into_inner());
            let place;
            if (*(*relation).rd_rel).relrewrite != pg_sys::InvalidOid {
                // What a rewrite writes has ordinals as anything else, whoever reads; it has no triggers that say what it is. What the
                // reader asked for of other tables need not fit this one: its shape is not looked at without need.
                place = self.next_place(call, lsn, xid, 1);
                if !self.options.include_rewrites || self.shape(relation).standing != Standing::Ordinary {
                    return self.left_out(call);
                }
            } else {
                match self.shape(relation).standing {
                    Standing::Ordinary => {}
                    Standing::Replicated => {
                        self.records.leave_out();
                        return self.left_out(call);
                    }
                    Standing::Own => return self.left_out(call),
                }
                place = self.next_place(call, lsn, xid, 1);
            }
            if !self.wants_origin((*change).origin_id) {
                return self.left_out(call);
            }
            let rows = &(*change).data.tp;
            let versions = [rows.newtuple, rows.oldtuple].map(|tuple| Version::decoded(compat::decoded_tuple(tuple)));
            self.tell_row(call, place, relation, (*change).action, versions);
        }
    }

    /// Tell of a row of this relation, if the reader wants it: of its new version and its old one, as far as they are there.
    ///
    /// # Safety
    /// In a callback, with the catalog as of the change.
    pub(super) unsafe fn tell_row(
        &mut self,
        call: Call,
        place: Place<'_>,
        relation: pg_sys::Relation,
        action: pg_sys::ReorderBufferChangeType::Type,
        versions: [Option<Version<'_>>; 2],
    ) {
        // SAFETY: by contract; the rows live as long as the callback, what is printed as long as `scratch` is not reset.
        unsafe {
            let shape = self.shape(relation);
            let kind = kind(action).filter(|kind| shape.wanted && wants(self.options.filters.operations, *kind));
            match kind {
                Some(kind) => {
                    let before = pg_sys::CurrentMemoryContext;
                    pg_sys::CurrentMemoryContext = self.scratch;
                    self.tell_wanted(call, place, &shape, (*relation).rd_att, kind, versions);
                    pg_sys::CurrentMemoryContext = before;
                }
                None => self.left_out(call),
            }
            // Most rows need none of it, and a call of the server costs as much as a value.
            if !(*self.scratch).isReset {
                pg_sys::MemoryContextReset(self.scratch);
            }
        }
    }

    unsafe fn tell_wanted(
        &mut self,
        call: Call,
        place: Place<'_>,
        shape: &Shape,
        descriptor: pg_sys::TupleDesc,
        kind: Told,
        [new_version, old_version]: [Option<Version<'_>>; 2],
    ) {
        // SAFETY: as for `tell_row`. The buffers are lent: should this raise, new ones are made.
        unsafe {
            let (mut new, mut old) = (std::mem::take(&mut self.new), std::mem::take(&mut self.old));
            let [mut new_row, mut old_row] = [
                (&mut new, new_version, kind == Told::Update),
                (&mut old, old_version, false),
            ]
            .map(|(buffer, version, not_told)| {
                let taken = version?.take_apart(shape, descriptor, not_told, buffer);
                taken.unwrap_or_else(|error| strong::unreadable(&error).raise());
                Some(buffer)
            });
            let told = match decide(shape, kind, new_row.as_deref(), old_row.as_deref()) {
                Ok(told) => told,
                Err(error) => error.raise(),
            };
            if told.is_some() {
                self.begin_late(call);
            }
            if let (Some(Told::Insert), Told::Update, Some(new), Some(old)) = (told, kind, &mut new_row, &old_row) {
                new.complete(old, shape);
            }
            let table = &shape.table;
            let event = match told {
                Some(Told::Insert) => values(&mut new_row, shape).map(|new| Change::Insert { table, new }),
                Some(Told::Update) => {
                    let old = values(&mut old_row, shape);
                    values(&mut new_row, shape).map(|new| Change::Update { table, old, new })
                }
                Some(Told::Delete) => Some(Change::Delete {
                    table,
                    old: values(&mut old_row, shape),
                }),
                None => None,
            };
            match event {
                Some(event) => self.tell(call, &Event::Row(place, event), true),
                None => self.left_out(call),
            }
            (self.new, self.old) = (new, old);
        }
    }

    /// Tables were emptied.
    pub unsafe fn truncate(
        &mut self,
        call: Call,
        relations: &[pg_sys::Relation],
        change: *mut pg_sys::ReorderBufferChange,
    ) {
        // SAFETY: in a callback that was passed these.
        unsafe {
            let mut ordinary = Vec::with_capacity(relations.len());
            for relation in relations {
                match self.shape(*relation).standing {
                    Standing::Ordinary => ordinary.push(*relation),
                    Standing::Replicated => self.records.leave_out(),
                    Standing::Own => {}
                }
            }
            if ordinary.is_empty() {
                return;
            }
            let xid = (*(*change).txn).xid.into_inner();
            let place = self.next_place(call, (*change).lsn, xid, ordinary.len() as u64);
            if !self.wants_origin((*change).origin_id) {
                return self.left_out(call);
            }
            let truncate = &(*change).data.truncate;
            self.tell_truncate(call, place, &ordinary, truncate.cascade, truncate.restart_seqs);
        }
    }

    /// Tell that these tables were emptied, of those that the reader wants.
    ///
    /// # Safety
    /// As for [`Self::tell_row`].
    pub(super) unsafe fn tell_truncate(
        &mut self,
        call: Call,
        place: Place<'_>,
        relations: &[pg_sys::Relation],
        cascade: bool,
        restart_identity: bool,
    ) {
        // SAFETY: by contract.
        unsafe {
            let numbered = relations.iter().zip(0..);
            let mut shapes: Vec<(Rc<Shape>, u64)> =
                numbered.map(|(table, number)| (self.shape(*table), number)).collect();
            // A partition that is told as its root is emptied with it, and says nothing by itself.
            shapes.retain(|(shape, _)| shape.wanted && !shape.via_root);
            let Some(first) = shapes.first().map(|(_, number)| *number) else {
                return self.left_out(call);
            };
            if !self.options.filters.operations.truncate {
                return self.left_out(call);
            }
            self.begin_late(call);
            // What else was emptied and is not told has its ordinals all the same.
            let tables = shapes.iter().map(|(shape, number)| Emptied {
                table: &shape.table,
                later: number - first,
            });
            let change = Change::Truncate {
                tables: &tables.collect::<Vec<_>>(),
                cascade,
                restart_identity,
            };
            let id = place.id.later(first);
            let event = Event::Row(Place { id, ..place }, change);
            if !self.options.format.one_table_at_a_time() {
                return self.tell(call, &event, true);
            }
            let told: Result<(), Infallible> = event.each_table(|event, last| {
                self.tell(call, event, last);
                Ok(())
            });
            let Ok(()) = told;
        }
    }
}

/// The values of a version, as they are told.
unsafe fn values<'a>(version: &'a mut Option<&mut RowBuffer>, shape: &Shape) -> Option<Row<'a>> {
    // SAFETY: taken apart by the descriptor of the shape's relation.
    version.as_mut().map(|row| unsafe { row.values(shape) }.into())
}

fn kind(action: pg_sys::ReorderBufferChangeType::Type) -> Option<Told> {
    use pg_sys::ReorderBufferChangeType as Kind;
    match action {
        Kind::REORDER_BUFFER_CHANGE_INSERT => Some(Told::Insert),
        Kind::REORDER_BUFFER_CHANGE_UPDATE => Some(Told::Update),
        Kind::REORDER_BUFFER_CHANGE_DELETE => Some(Told::Delete),
        _ => None,
    }
}

fn wants(operations: Operations, told: Told) -> bool {
    match told {
        Told::Insert => operations.insert,
        Told::Update => operations.update,
        Told::Delete => operations.delete,
    }
}

/// What a row is told as, by the condition on its table: one that comes into view is new, one that leaves it is gone.
unsafe fn decide(
    shape: &Shape,
    told: Told,
    new: Option<&RowBuffer>,
    old: Option<&RowBuffer>,
) -> Result<Option<Told>, UserError> {
    let Some(filter) = &shape.row_filter else {
        return Ok(Some(told));
    };
    if told != Told::Insert && !filter.covered {
        return Err(row_filter::not_covered(&shape.table.quoted_name));
    }
    let matches = |row: Option<&RowBuffer>, old| match row {
        // SAFETY: the versions were taken apart by the relation's descriptor.
        Some(row) => unsafe { filter.matches(row, old, &shape.table.quoted_name) },
        None => Ok(false),
    };
    let fulfils = matches(new, old)?;
    let fulfilled = match (told, old) {
        // Its identity, and so what the condition reads, did not change.
        (Told::Update, None) => fulfils,
        _ => matches(old, None)?,
    };
    Ok(match (told, fulfilled, fulfils) {
        (Told::Insert, _, true) | (Told::Update, false, true) => Some(Told::Insert),
        (Told::Update, true, true) => Some(Told::Update),
        (Told::Update, true, false) | (Told::Delete, true, _) => Some(Told::Delete),
        _ => None,
    })
}
