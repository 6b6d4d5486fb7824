//! SQL: sequences of the group.

use pgrx::prelude::*;

use crate::pg::sequence::Sequence;
use crate::pg::service::grants;
use crate::pg::service::ranges::feeds_of;
use crate::pg::{catalog, relation, shmem};

/// `synod.sequences`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of a view")]
fn sequences() -> TableIterator<
    'static,
    (
        name!(sequence, pg_sys::Oid),
        name!(table_name, pg_sys::Oid),
        name!(column_name, String),
        name!(granted, Option<i64>),
        name!(first_value, Option<i64>),
        name!(last_value, Option<i64>),
        name!(next_value, Option<i64>),
    ),
> {
    let mut rows = Vec::new();
    for (_, oid) in catalog::all() {
        let Some(table) = relation::by_oid(oid) else { continue };
        for feeding in &table.sequences {
            let Some(sequence) = Sequence::open_briefly(feeding.sequence) else {
                continue;
            };
            let (range, next) = sequence.look(|state| {
                let range = shmem::my_node().and_then(|node| node.ranges.get(feeding.sequence));
                (range, sequence.next(state))
            });
            rows.push((
                feeding.sequence,
                oid,
                table.columns[usize::from(feeding.column)].name.clone(),
                grants::granted(&feeds_of(feeding.sequence)),
                range.map(|range| range.first),
                range.map(|range| range.last),
                range.map(|_| next),
            ));
        }
    }
    TableIterator::new(rows)
}
