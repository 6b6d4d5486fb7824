//! Which values the columns that sequences feed have in the rows that a transaction inserted: from the least to the greatest.

use pgrx::pg_sys;

use super::image::Image;
use crate::pg::relation::StrongTable;
use crate::pg::relcache::Relation;

/// One column.
struct Column {
    sequence: pg_sys::Oid,
    /// Number in the row.
    index: usize,
    /// Its values are not integers: they may be anything.
    opaque: bool,
    values: Option<(i64, i64)>,
}

/// The columns of a table that sequences feed.
pub(super) struct Drawn(Vec<Column>);

impl Drawn {
    pub(super) fn new(table: &StrongTable, relation: &Relation) -> Self {
        let columns = table.sequences.iter().filter_map(|feeding| {
            let index = table.columns.get(usize::from(feeding.column))?.index;
            let kind = relation.attribute(index).atttypid;
            Some(Column {
                sequence: feeding.sequence,
                index,
                opaque: ![pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID].contains(&kind),
                values: None,
            })
        });
        Self(columns.collect())
    }

    /// A row comes.
    pub(super) fn note(&mut self, image: &Image<'_>) {
        for column in self.0.iter_mut().filter(|column| !column.opaque) {
            // Integers of all widths are stored sign-extended in a Datum.
            if let Some(value) = image.get(column.index).map(|datum| datum.value() as i64) {
                let (least, greatest) = column.values.unwrap_or((value, value));
                column.values = Some((least.min(value), greatest.max(value)));
            }
        }
    }

    /// Whether a value of the sequence between these two may be in one of the rows.
    pub(super) fn may_have(&self, sequence: pg_sys::Oid, from: i64, to: i64) -> bool {
        self.0
            .iter()
            .filter(|column| column.sequence == sequence)
            .any(|column| {
                column.opaque
                    || column
                        .values
                        .is_some_and(|(least, greatest)| least <= from.max(to) && from.min(to) <= greatest)
            })
    }
}
