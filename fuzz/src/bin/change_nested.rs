//! Values that are taken apart, by whatever type. Covers crates/change/src/nested.rs.
#![no_main]

use synod_change::nested::Nested;
use synod_fuzz::Pieces;

/// As the extension does it; `steps` says of what type each part is.
fn read(mut from: Nested<'_>, steps: &mut Pieces<'_>, depth: u8) {
    let parts = match steps.u8() % 4 {
        _ if depth == 0 => return,
        0 => from.dimensions().map(|(_, count)| count),
        1 => from.count(),
        2 => from.flags().map(|flags| usize::from(flags & 3)),
        _ => {
            let _ = from.rest();
            return;
        }
    };
    for _ in 0..parts.unwrap_or(0) {
        match from.part() {
            Ok(Some(part)) => read(Nested::part_of(part), steps, depth - 1),
            Ok(None) => {}
            Err(_) => return,
        }
    }
    let _ = from.finish();
}

synod_fuzz::target!(|data: &[u8]| {
    let mut pieces = Pieces(data);
    let types = pieces.bytes(64);
    if let Ok(Some(whole)) = Nested::whole(pieces.0) {
        read(whole, &mut Pieces(types), 5);
    }
});
