//! The rules as tables that can be read without Rust: `cases/*.txt`.
//!
//! A line is `position | proposal | entry | verdict`; a proposal is node.incarnation.sequence. Entries: `noop`, `start`,
//! `fragment`, `write base=B key:MODE ... [fragments=P,P]` with the modes KS (FOR KEY SHARE), S (FOR SHARE), NKU (FOR NO
//! KEY UPDATE), U (FOR UPDATE); `tx=N` is the transaction's number, the keys `table1`, ... and `ddl` are those of tables 1, ...
//! and of DDL. `lock tx=N [all] [1 2 ...]`, `unlock tx=node.incarnation.N`: the DDL lock. `window R K` sets the limits: R records, K keys. A `new log` line begins again.

use bytes::Bytes;
use synod_change::{
    Body, DdlLockRecord, Key, KeyMode, Record, TableId, TransactionId, WriteRecord, ddl_key, table_key,
};

use crate::window::Window;
use crate::{Abort, Certifier, CommandId, Input, Skip, Verdict};

fn mode(text: &str) -> KeyMode {
    match text {
        "KS" => KeyMode::KeyShare,
        "S" => KeyMode::Share,
        "NKU" => KeyMode::NoKeyUpdate,
        "U" => KeyMode::Update,
        other => panic!("no mode {other}"),
    }
}

fn hash(name: &str) -> u64 {
    if name == "ddl" {
        return ddl_key();
    }
    if let Some(number) = name.strip_prefix("table") {
        return table_key(TableId(number.parse().unwrap()));
    }
    name.bytes().fold(1, |hash, byte| hash << 8 | u64::from(byte))
}

fn record(text: &str) -> Option<Record> {
    let mut words = text.split_whitespace();
    match words.next().unwrap() {
        "noop" => None,
        "start" => Some(Record::Start {
            postgres_version: 150_020,
            synod_version: 100,
        }),
        "fragment" => Some(Record::Fragment(Bytes::new())),
        "write" => {
            let base = words.next().unwrap().strip_prefix("base=").unwrap().parse().unwrap();
            let (mut keys, mut body) = (Vec::new(), Body::Inline(Bytes::new()));
            let mut transaction = TransactionId::default();
            for word in words {
                if let Some(number) = word.strip_prefix("tx=") {
                    transaction.number = number.parse().unwrap();
                } else if let Some(list) = word.strip_prefix("fragments=") {
                    let positions = list.split(',').map(|number| number.parse().unwrap()).collect();
                    body = Body::Fragments {
                        positions,
                        length: 0,
                        crc: 0,
                    };
                } else {
                    let (name, strength) = word.split_once(':').unwrap();
                    keys.push(Key {
                        hash: hash(name),
                        mode: mode(strength),
                    });
                }
            }
            Some(Record::Write(WriteRecord {
                base,
                transaction,
                commit_time_us: 0,
                keys,
                body,
            }))
        }
        kind @ ("lock" | "unlock") => {
            let name = words.next().unwrap().strip_prefix("tx=").unwrap();
            if kind == "unlock" {
                let parts: Vec<u64> = name.split('.').map(|part| part.parse().unwrap()).collect();
                return Some(Record::DdlUnlock(TransactionId {
                    node: parts[0] as u32,
                    incarnation: parts[1],
                    number: parts[2],
                }));
            }
            let transaction = name.parse().unwrap();
            let words: Vec<&str> = words.collect();
            let numbers = words.iter().filter_map(|word| word.parse().ok());
            Some(Record::DdlLock(DdlLockRecord {
                transaction,
                all: words.contains(&"all"),
                tables: numbers.map(TableId).collect(),
                expected: Vec::new(),
            }))
        }
        other => panic!("no entry {other}"),
    }
}

fn words(verdict: Verdict) -> String {
    match verdict {
        Verdict::Skip(Skip::Noop) => "skip: noop".into(),
        Verdict::Skip(Skip::Duplicate) => "skip: duplicate".into(),
        Verdict::Skip(Skip::Fenced) => "skip: fenced".into(),
        Verdict::Skip(Skip::Fragment) => "skip: fragment".into(),
        Verdict::Skip(Skip::Start) => "skip: start".into(),
        Verdict::Commit { previous } => format!("commit after {previous}"),
        Verdict::Abort(Abort::Conflict(conflict)) => format!("abort: conflict with {}", conflict.position),
        Verdict::Abort(Abort::TooOld) => "abort: too old".into(),
        Verdict::Abort(Abort::Malformed) => "abort: malformed".into(),
        Verdict::Abort(Abort::DdlLocked) => "abort: locked".into(),
    }
}

fn run(cases: &str) {
    let (mut limits, mut certifier) = ((100, 1000), Certifier::new());
    let lines = cases
        .lines()
        .map(|line| line.split('#').next().unwrap().trim())
        .enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        if let Some(text) = line.strip_prefix("window ") {
            let (records, keys) = text.split_once(' ').unwrap();
            limits = (records.parse().unwrap(), keys.parse().unwrap());
        }
        if line == "new log" || line.starts_with("window ") {
            certifier = Certifier::with_window(Window::with_limits(limits.0, limits.1));
            continue;
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [position, proposal, entry, expected] = cells[..] else {
            panic!("line {}: {line}", number + 1);
        };
        let record = record(entry);
        let input = match &record {
            None => Input::Nothing,
            Some(record) => {
                let parts: Vec<u64> = proposal.split('.').map(|part| part.parse().unwrap()).collect();
                let id = CommandId {
                    node: parts[0] as u32,
                    incarnation: parts[1],
                    sequence: parts[2],
                };
                Input::Command { id, record }
            }
        };
        let verdict = words(certifier.apply(position.parse().unwrap(), input));
        assert_eq!(verdict, expected, "line {}: {line}", number + 1);
    }
}

#[test]
fn modes() {
    run(include_str!("cases/modes.txt"));
}

#[test]
fn window() {
    run(include_str!("cases/window.txt"));
}

#[test]
fn proposals() {
    run(include_str!("cases/proposals.txt"));
}

#[test]
fn fragments() {
    run(include_str!("cases/fragments.txt"));
}

#[test]
fn ddl() {
    run(include_str!("cases/ddl.txt"));
}

/// The lock dies with its owner's membership.
#[test]
fn a_removed_node_has_no_ddl_lock() {
    let mut certifier = Certifier::new();
    let id = |sequence| CommandId {
        node: 1,
        incarnation: 1,
        sequence,
    };
    for (position, text) in [(1, "start"), (2, "lock tx=1 all")] {
        let record = record(text).unwrap();
        let (id, record) = (id(position), &record);
        certifier.apply(position, Input::Command { id, record });
    }
    assert!(certifier.ddl_lock().is_some());
    certifier.apply(3, Input::Members(&[1, 2]));
    assert!(certifier.ddl_lock().is_some());
    certifier.apply(4, Input::Members(&[2, 3]));
    assert_eq!(certifier.ddl_lock(), None);
}
