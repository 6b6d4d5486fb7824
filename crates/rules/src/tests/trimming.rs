//! What of the log is still needed, and the bounds on what is remembered.

use bytes::Bytes;
use synod_change::{Body, Key, KeyMode, MAX_KEYS_PER_RECORD, Record, WriteRecord};

use crate::window::Window;
use crate::{Abort, Certifier, Input, MAX_OPEN_FRAGMENTS, MAX_WINDOW_KEYS, Skip, Verdict, VerdictKind};

struct Log {
    certifier: Certifier,
    sequence: u64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self {
            certifier: Certifier::new(),
            sequence: 0,
        };
        assert_eq!(
            log.add(&Record::Start {
                postgres_version: 0,
                synod_version: 0
            }),
            Verdict::Skip(Skip::Start)
        );
        log
    }

    fn add(&mut self, record: &Record) -> Verdict {
        self.sequence += 1;
        let id = (1, 1, self.sequence).into();
        self.certifier
            .apply(self.certifier.position() + 1, Input::Command { id, record })
    }

    fn fragment(&mut self) -> u64 {
        assert_eq!(self.add(&Record::Fragment(Bytes::new())), Verdict::Skip(Skip::Fragment));
        self.certifier.position()
    }

    fn write(&mut self, keys: Vec<Key>, positions: &[u64]) -> Verdict {
        let body = Body::Fragments {
            positions: positions.to_vec(),
            length: 0,
            crc: 0,
        };
        let base = self.certifier.position();
        self.add(&Record::Write(WriteRecord {
            base,
            transaction: Default::default(),
            commit_time_us: 0,
            keys,
            body,
        }))
    }
}

#[test]
fn fragments_hold_the_log_until_their_record_is_applied() {
    let mut log = Log::new();
    let (one, two) = (log.fragment(), log.fragment());
    assert_eq!((one, two, log.certifier.trim_bound(3)), (2, 3, 2));
    assert!(log.write(Vec::new(), &[two]).commits());
    assert_eq!(log.certifier.oldest_open_fragment(), Some(one));
    assert!(log.write(Vec::new(), &[one]).commits());
    assert_eq!(log.certifier.oldest_open_fragment(), None);
    assert_eq!(log.certifier.trim_bound(3), 2, "5 is not applied and needs 2");
    assert_eq!(log.certifier.trim_bound(4), 2);
    assert_eq!(log.certifier.trim_bound(5), 6);
}

#[test]
fn nothing_is_trimmed_until_the_checkpoint_is_applied() {
    let mut log = Log::new();
    let fragment = log.fragment();
    assert!(log.write(Vec::new(), &[fragment]).commits());
    let mut restored = Certifier::decode(&log.certifier.encode()).unwrap();
    assert_eq!(restored.trim_bound(2), 0, "whether 3 needs 2 is not known here");
    assert_eq!(restored.trim_bound(3), 4);
}

#[test]
fn open_fragments_are_bounded() {
    let mut log = Log::new();
    let (first, second) = (log.fragment(), log.fragment());
    for _ in 2..=MAX_OPEN_FRAGMENTS {
        log.fragment();
    }
    assert_eq!(log.certifier.oldest_open_fragment(), Some(second));
    assert_eq!(log.write(Vec::new(), &[first]), Verdict::Abort(Abort::Malformed));
    assert!(log.write(Vec::new(), &[second]).commits());
}

#[test]
fn keys_are_bounded() {
    let mut log = Log::new();
    let records = MAX_WINDOW_KEYS / MAX_KEYS_PER_RECORD;
    for record in 0..=records as u64 {
        assert_eq!(log.certifier.floor(), 0);
        let first = record << 32;
        let keys = (first..first + MAX_KEYS_PER_RECORD as u64).map(|hash| Key {
            hash,
            mode: KeyMode::Update,
        });
        assert!(log.write(keys.collect(), &[]).commits());
    }
    assert_eq!(log.certifier.floor(), 2, "the first write is gone");
    let keys = vec![
        Key {
            hash: 0,
            mode: KeyMode::Update
        };
        MAX_KEYS_PER_RECORD + 1
    ];
    assert_eq!(log.write(keys, &[]), Verdict::Abort(Abort::Malformed));
}

/// It was half of what had been committed, however little that was.
#[test]
fn the_lasting_floor_is_half_a_window_back() {
    const KEY: Key = Key {
        hash: 1,
        mode: KeyMode::Update,
    };
    let mut window = Window::with_limits(10, 40);
    for position in 1..=30_u64 {
        window.push(position, &[KEY]);
        assert_eq!(window.floor(), position.saturating_sub(10));
        assert_eq!(window.lasting_floor(), position.saturating_sub(5));
    }
    // Keys count as well: of forty that fit, twenty last.
    for position in 31..=40 {
        window.push(position, &[KEY; 9]);
    }
    assert_eq!((window.floor(), window.lasting_floor()), (36, 38));
    window.push(41, &[KEY; 30]);
    assert_eq!((window.floor(), window.lasting_floor()), (39, 41));
    window.push(42, &[KEY]);
    assert_eq!((window.floor(), window.lasting_floor()), (39, 41));
    window.push(43, &[KEY; 9]);
    assert_eq!((window.floor(), window.lasting_floor()), (40, 41));
    // And those of one that was never behind it.
    window.push(44, &[KEY; 40]);
    assert_eq!((window.floor(), window.lasting_floor()), (43, 44));
    window.push(45, &[KEY]);
    assert_eq!((window.floor(), window.lasting_floor()), (44, 44));
}

#[test]
#[should_panic(expected = "without gaps")]
fn an_entry_left_out_is_fatal() {
    Certifier::new().apply(2, Input::Nothing);
}

#[test]
fn verdicts_keep_their_numbers() {
    let known: Vec<_> = (0..=255)
        .filter_map(VerdictKind::from_u8)
        .map(|kind| (kind as u8, kind))
        .collect();
    assert!(
        known
            .iter()
            .all(|(byte, kind)| VerdictKind::from_u8(*byte) == Some(*kind))
    );
    let bytes: Vec<_> = known.iter().map(|(byte, _)| *byte).collect();
    assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 16, 32, 33, 34, 35]);
    assert_eq!(Verdict::Commit { previous: 9 }.code(), 16);
    assert_eq!(Verdict::Abort(Abort::TooOld).code(), 33);
    assert_eq!(Verdict::Skip(Skip::Noop).code(), 1);
}

#[test]
fn fragments_of_a_body_that_was_given_up_can_be_closed() {
    let mut log = Log::new();
    let pieces = [log.fragment(), log.fragment()];
    let void = Record::Write(WriteRecord {
        base: u64::MAX,
        transaction: Default::default(),
        commit_time_us: 0,
        keys: Vec::new(),
        body: Body::Fragments {
            positions: pieces.to_vec(),
            length: 0,
            crc: 0,
        },
    });
    assert_eq!(log.add(&void), Verdict::Abort(Abort::Malformed));
    assert_eq!(log.certifier.oldest_open_fragment(), None);
}

#[test]
fn fragments_of_a_removed_node_do_not_hold_the_log() {
    let mut log = Log::new();
    let piece = log.fragment();
    let next = log.certifier.position() + 1;
    log.certifier.apply(next, Input::Members(&[1, 2]));
    assert_eq!(log.certifier.oldest_open_fragment(), Some(piece));
    log.certifier.apply(next + 1, Input::Members(&[2]));
    assert_eq!(log.certifier.oldest_open_fragment(), None);
}
