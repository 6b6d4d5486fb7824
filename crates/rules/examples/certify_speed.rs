//! How many keys a second the certifier takes: `cargo run --release -p synod-rules --example certify_speed`.

use std::time::Instant;

use bytes::Bytes;
use synod_change::{Body, Key, KeyHasher, KeyMode, Record, TableId, WriteRecord, table_key};
use synod_rules::{Certifier, Input};

const RECORDS: u64 = 500_000;
const ROWS: u64 = 4;
const TABLE: TableId = TableId(1);

/// Writes of [`ROWS`] rows of a million, with the table key and a base of 100 positions before.
fn record(position: u64) -> Record {
    let row = |n: u64| {
        KeyHasher::new(TABLE, 1)
            .int(((position * ROWS + n).wrapping_mul(7919) % 1_000_000) as i64)
            .finish()
    };
    let mut keys: Vec<Key> = (0..ROWS)
        .map(|n| Key {
            hash: row(n),
            mode: KeyMode::Update,
        })
        .collect();
    keys.push(Key {
        hash: table_key(TABLE),
        mode: KeyMode::KeyShare,
    });
    let (transaction, body) = (Default::default(), Body::Inline(Bytes::new()));
    Record::Write(WriteRecord {
        base: position.saturating_sub(100),
        transaction,
        commit_time_us: 0,
        keys,
        body,
    })
}

fn main() {
    let mut certifier = Certifier::new();
    let start = Record::Start {
        postgres_version: 150_020,
        synod_version: 100,
    };
    certifier.apply(
        1,
        Input::Command {
            id: (1, 1, 1).into(),
            record: &start,
        },
    );
    let records: Vec<_> = (2..RECORDS + 2).map(|position| (position, record(position))).collect();
    let began = Instant::now();
    let commits = records
        .iter()
        .filter(|(position, record)| {
            certifier
                .apply(
                    *position,
                    Input::Command {
                        id: (1, 1, *position).into(),
                        record,
                    },
                )
                .commits()
        })
        .count();
    let seconds = began.elapsed().as_secs_f64();
    let keys = RECORDS * (ROWS + 1);
    println!(
        "{commits} of {RECORDS} records commit; {:.1} million keys/s",
        keys as f64 / seconds / 1e6
    );
    let began = Instant::now();
    let bytes = certifier.encode();
    let encoded = began.elapsed();
    let began = Instant::now();
    let restored = Certifier::decode(&bytes).map(|certifier| certifier.position());
    println!(
        "checkpoint of {} bytes: encoded in {encoded:?}, decoded in {:?}: {restored:?}",
        bytes.len(),
        began.elapsed()
    );
}
