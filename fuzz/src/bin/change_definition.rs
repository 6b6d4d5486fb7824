//! Definitions of tables, and what is said of two that differ. Covers crates/change/src/definition_codec.rs.
#![no_main]

use std::collections::BTreeSet;

use synod_change::TableDefinition;

fn decoded(data: &[u8]) -> Option<TableDefinition> {
    let definition = TableDefinition::decode(data).ok()?;
    assert_eq!(definition.encode(), data, "one definition, two encodings");
    Some(definition)
}

synod_fuzz::target!(|data: &[u8]| {
    let whole = decoded(data);
    // Two at once: the first byte says where the second begins.
    let Some((at, rest)) = data.split_first() else { return };
    let (one, other) = rest.split_at(usize::from(*at).min(rest.len()));
    let (one, other) = (decoded(one), decoded(other));
    for (one, other) in [(&whole, &one), (&one, &other), (&whole, &whole)] {
        if let (Some(one), Some(other)) = (one, other) {
            let differences = one.differences_to(other, "on the other");
            let names: BTreeSet<_> = one.columns.iter().map(|column| &column.name).collect();
            let distinct = names.len() == one.columns.len();
            assert!(one != other || !distinct || differences.is_empty(), "{differences:?}");
        }
    }
});
