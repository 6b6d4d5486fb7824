//! A hostile log: any records in any order get verdicts, and two certifiers the same ones. Covers
//! crates/rules/src/certifier.rs.
#![no_main]

use bytes::Bytes;
use synod_change::{Body, DdlLockRecord, Key, KeyMode, Record, TableId, TransactionId, WriteRecord};
use synod_fuzz::Pieces;
use synod_rules::{Certifier, Input};

fn record(pieces: &mut Pieces<'_>) -> Record {
    match pieces.u8() % 6 {
        0 => Record::Start {
            postgres_version: 150_000,
            synod_version: 100,
        },
        1 => Record::Fragment(Bytes::from_static(b"x")),
        2 => Record::DdlLock(DdlLockRecord {
            transaction: pieces.number(),
            all: pieces.u8() & 1 == 1,
            tables: (0..pieces.u8() % 4).map(|_| TableId(pieces.number())).collect(),
            ..DdlLockRecord::default()
        }),
        3 => Record::DdlUnlock(transaction(pieces)),
        kind => Record::Write(WriteRecord {
            base: pieces.number(),
            transaction: transaction(pieces),
            commit_time_us: 0,
            keys: (0..pieces.u8() % 5)
                .map(|_| Key {
                    hash: pieces.number(),
                    mode: KeyMode::ALL[usize::from(pieces.u8() % 4)],
                })
                .collect(),
            body: if kind == 4 {
                Body::Inline(Bytes::new())
            } else {
                Body::Fragments {
                    positions: (0..pieces.u8() % 5).map(|_| pieces.number()).collect(),
                    length: pieces.number(),
                    crc: 0,
                }
            },
        }),
    }
}

fn transaction(pieces: &mut Pieces<'_>) -> TransactionId {
    TransactionId {
        node: u32::from(pieces.u8()),
        incarnation: pieces.number(),
        number: pieces.number(),
    }
}

synod_fuzz::target!(|data: &[u8]| {
    let mut pieces = Pieces(data);
    let (mut first, mut second) = (Certifier::new(), Certifier::new());
    for position in 1..200 {
        if pieces.is_empty() {
            break;
        }
        let members: Vec<u32> = (0..pieces.u8() % 4).map(u32::from).collect();
        let made = record(&mut pieces);
        let id = (u32::from(pieces.u8() % 4), pieces.number(), pieces.number()).into();
        let input = match pieces.u8() % 8 {
            0 => Input::Nothing,
            1 => Input::Members(&members),
            _ => Input::Command { id, record: &made },
        };
        let verdict = first.apply(position, input);
        assert_eq!(second.apply(position, input).code(), verdict.code());
        assert!(first.last_commit() <= first.position());
        let _ = first.oldest_open_fragment();
        if pieces.u8() == 0 {
            second = Certifier::decode(&second.encode()).expect("its own state");
        }
    }
    assert_eq!(first.encode(), second.encode());
});
