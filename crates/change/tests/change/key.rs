//! Key hashes are part of the log's meaning: these values are fixed for ever.

use proptest::prelude::*;
use synod_change::{INDEX_WHOLE_ROW, KeyHasher, KeyMode, TableId, name_key, table_key};

fn hash(feed: impl FnOnce(&mut KeyHasher) -> &mut KeyHasher) -> u64 {
    let mut hasher = KeyHasher::new(TableId(0x0123_4567_89ab_cdef), 1);
    feed(&mut hasher);
    hasher.finish()
}

fn numeric(text: &str) -> u64 {
    hash(|h| h.numeric(text))
}

fn float(value: f64) -> u64 {
    hash(|h| h.float(value))
}

#[test]
fn golden_values() {
    let uuid = *b"0123456789abcdef";
    let got = [
        ("nothing", hash(|h| h)),
        ("null", hash(|h| h.null())),
        ("true", hash(|h| h.bool(true))),
        ("int 42", hash(|h| h.int(42))),
        ("int -1", hash(|h| h.int(-1))),
        ("float 1.5", float(1.5)),
        ("numeric 7.5", numeric("7.5")),
        ("bytes synod", hash(|h| h.bytes(b"synod"))),
        ("uuid", hash(|h| h.uuid(&uuid))),
        ("(1, a)", hash(|h| h.int(1).bytes(b"a"))),
        ("long", hash(|h| h.bytes(&[7; 1000]))),
        ("whole row", {
            let mut hasher = KeyHasher::new(TableId(5), INDEX_WHOLE_ROW);
            hasher.int(1).finish()
        }),
        ("table 5", table_key(TableId(5))),
        ("public.t", name_key("public", "t")),
    ];
    let text: String = got.iter().map(|(what, hash)| format!("{hash:016x} {what}\n")).collect();
    assert_eq!(text, include_str!("../fixtures/key_hashes_v1.txt"));
}

#[test]
fn what_postgresql_holds_equal_hashes_equal() {
    for same in [
        &["1", "1.0", "1.00", "+1", "01.000", " 1 "][..],
        &["0", "0.0", "-0", "-0.00", ".0", "000"],
        &["-12.5", "-12.50", "-012.5"],
        &["NaN", "nan"],
        &["Infinity", "inf", "+Infinity"],
        &["-Infinity", "-inf"],
    ] {
        assert!(same.iter().all(|text| numeric(text) == numeric(same[0])), "{same:?}");
    }
    assert_eq!(float(0.0), float(-0.0));
    assert_eq!(float(f64::NAN), float(f64::from_bits(f64::NAN.to_bits() | 1 << 63 | 5)));
}

#[test]
fn what_differs_hashes_differently() {
    let mut all = vec![
        numeric("1"),
        numeric("10"),
        numeric("0.1"),
        numeric("-1"),
        numeric("NaN"),
        numeric("Infinity"),
        numeric("-Infinity"),
        numeric("0"),
        hash(|h| h.int(1)),
        float(1.0),
        hash(|h| h.bytes(b"1")),
        hash(|h| h.bool(true)),
        hash(|h| h.null()),
        hash(|h| h.bytes(b"ab").bytes(b"c")),
        hash(|h| h.bytes(b"a").bytes(b"bc")),
        KeyHasher::new(TableId(1), 2).finish(),
        KeyHasher::new(TableId(2), 1).finish(),
        table_key(TableId(1)),
        table_key(TableId(2)),
        name_key("ab", "c"),
        name_key("a", "bc"),
    ];
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

/// Table 13.3 of PostgreSQL's manual.
#[test]
fn conflicting_row_level_locks() {
    let table = "
                   KeyShare  Share  NoKeyUpdate  Update
        KeyShare   .         .      .            X
        Share      .         .      X            X
        NoKeyUpdate .        X      X            X
        Update     X         X      X            X";
    let mut lines = table.lines().skip(2);
    for mine in KeyMode::ALL {
        let cells: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(cells[0], format!("{mine:?}"));
        for theirs in KeyMode::ALL {
            assert_eq!(
                mine.conflicts_with(theirs),
                cells[1 + theirs as usize] == "X",
                "{mine:?} {theirs:?}"
            );
        }
        assert_eq!(KeyMode::from_u8(mine as u8), Some(mine));
    }
    assert_eq!(KeyMode::from_u8(4), None);
}

proptest! {
    #[test]
    fn numeric_zeros_never_matter(whole in "[0-9]{1,30}", fraction in "[0-9]{0,30}", zeros in 0usize..5) {
        let plain = format!("{whole}.{fraction}");
        let padded = format!("{}{plain}{}", "0".repeat(zeros), "0".repeat(zeros));
        prop_assert_eq!(numeric(&plain), numeric(&padded));
    }

    #[test]
    fn any_text_is_survived(text in ".{0,20}") {
        numeric(&text);
    }
}
