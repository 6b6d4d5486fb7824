//! The rules as tables that can be read without Rust: `cases/*.txt`.
//!
//! A line is `position | proposal | entry | verdict`; a proposal is node.incarnation.sequence. Entries: `noop`, `start`,
//! `fragment`, `write base=B key:MODE ... [fragments=P,P]` with the modes KS (FOR KEY SHARE), S (FOR SHARE), NKU (FOR NO
//! KEY UPDATE), U (FOR UPDATE). `window R K` sets the limits: R records, K keys. A `new log` line begins again.

use bytes::Bytes;
use synod_change::{Body, Key, KeyMode, Record, WriteRecord};

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
            for word in words {
                if let Some(list) = word.strip_prefix("fragments=") {
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
                transaction: Default::default(),
                commit_time_us: 0,
                keys,
                body,
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
