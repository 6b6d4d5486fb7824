//! Bytes of messages and durable records: round trips, fixtures of released versions, and any garbage.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use synod_paxos::{
    Ballot, Body, Command, DecodeError, DurableRecord, Entry, LogId, MAX_POSITION, Member, Membership,
    MembershipChange, Message, NodeId, ProposalId, Value,
};

fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u32>().prop_map(NodeId)
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), node()).prop_map(|(round, node)| Ballot { round, node })
}

fn command() -> impl Strategy<Value = Command> {
    (node(), any::<u64>(), any::<u64>(), payload()).prop_map(|(node, incarnation, sequence, payload)| Command {
        id: ProposalId {
            node,
            incarnation,
            sequence,
        },
        payload,
    })
}

fn membership() -> impl Strategy<Value = Membership> {
    let member = (node(), any::<[u8; 16]>(), any::<bool>(), payload());
    let member = member.prop_map(|(id, log, voter, info)| Member {
        id,
        log: LogId(log),
        voter,
        info,
    });
    (any::<u64>(), any::<u32>(), vec(member, 0..4)).prop_map(|(version, next_id, members)| Membership {
        version,
        next_id,
        members,
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Noop),
        command().prop_map(Value::Command),
        membership().prop_map(Value::Membership)
    ]
}

fn position() -> impl Strategy<Value = u64> {
    0..=MAX_POSITION
}

fn entry() -> impl Strategy<Value = Entry> {
    (position(), ballot(), value()).prop_map(|(position, ballot, value)| Entry {
        position,
        ballot,
        value,
    })
}

fn record() -> impl Strategy<Value = DurableRecord> {
    prop_oneof![
        ballot().prop_map(DurableRecord::Promise),
        entry().prop_map(DurableRecord::Accept),
        position().prop_map(DurableRecord::Chosen),
        (position(), membership()).prop_map(|(chosen, membership)| DurableRecord::Base { chosen, membership }),
        position().prop_map(DurableRecord::Trimmed),
    ]
}

fn change() -> impl Strategy<Value = MembershipChange> {
    prop_oneof![
        (any::<[u8; 16]>(), payload()).prop_map(|(log, info)| MembershipChange::AddLearner { log: LogId(log), info }),
        node().prop_map(MembershipChange::Promote),
        node().prop_map(MembershipChange::Remove),
        (node(), payload()).prop_map(|(node, info)| MembershipChange::Describe(node, info)),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let number = any::<u64>;
    let elections = prop_oneof![
        (ballot(), number()).prop_map(|(ballot, chosen)| Body::PreVote { ballot, chosen }),
        (ballot(), number()).prop_map(|(ballot, chosen)| Body::TakeOver { ballot, chosen }),
        (ballot(), any::<bool>(), ballot(), number(), option::of(node())).prop_map(
            |(ballot, granted, promised, chosen, leader)| Body::PreVoteReply {
                ballot,
                granted,
                promised,
                chosen,
                leader
            }
        ),
        (ballot(), number(), number()).prop_map(|(ballot, chosen, from)| Body::Prepare { ballot, chosen, from }),
        (ballot(), number(), vec(entry(), 0..4), option::of(number()), number()).prop_map(
            |(ballot, from, entries, next, last)| Body::Promise {
                ballot,
                from,
                entries,
                next,
                last
            }
        ),
        (ballot(), ballot(), number()).prop_map(|(ballot, promised, chosen)| Body::Rejected {
            ballot,
            promised,
            chosen
        }),
    ];
    let accepts = prop_oneof![
        (ballot(), number(), vec(entry(), 0..4)).prop_map(|(ballot, chosen, entries)| Body::Accept {
            ballot,
            chosen,
            entries
        }),
        (ballot(), number(), number()).prop_map(|(ballot, upto, last)| Body::Accepted { ballot, upto, last }),
        (ballot(), any::<[u64; 4]>()).prop_map(|(ballot, [round, chosen, sent, lease_ms])| Body::Heartbeat {
            ballot,
            round,
            chosen,
            sent,
            lease_ms
        }),
        (ballot(), any::<[u64; 5]>(), any::<bool>()).prop_map(
            |(ballot, [round, received, upto, last, chosen], gap)| {
                Body::HeartbeatReply {
                    ballot,
                    round,
                    received,
                    upto,
                    last,
                    chosen,
                    gap,
                }
            }
        ),
        (ballot(), number()).prop_map(|(ballot, received)| Body::Gap { ballot, received }),
    ];
    let others = prop_oneof![
        (vec(entry(), 0..4), number()).prop_map(|(entries, chosen)| Body::Learn { entries, chosen }),
        number().prop_map(|from| Body::Fetch { from }),
        number().prop_map(|below| Body::Trimmed { below }),
        vec(command(), 0..4).prop_map(|commands| Body::Forward { commands }),
        number().prop_map(|token| Body::TailRequest { token }),
        (number(), number(), option::of(number())).prop_map(|(session, token, position)| Body::TailReply {
            session,
            token,
            position
        }),
        change().prop_map(|change| Body::Change { change }),
        ".{0,20}".prop_map(|reason| Body::ChangeRefused { reason }),
        (any::<[u8; 16]>(), ".{0,20}").prop_map(|(log, reason)| Body::Fenced {
            log: LogId(log),
            reason
        }),
    ];
    prop_oneof![elections, accepts, others]
}

fn message() -> impl Strategy<Value = Message> {
    (any::<[u8; 16]>(), any::<u64>(), body()).prop_map(|(log, session, body)| Message {
        log: LogId(log),
        session,
        body,
    })
}

fn bytes_of(record: &DurableRecord) -> Bytes {
    let mut bytes = BytesMut::new();
    record.encode(&mut bytes);
    bytes.freeze()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_come_back(message in message()) {
        prop_assert_eq!(Message::decode(message.encode()), Ok(message));
    }

    #[test]
    fn records_come_back(record in record()) {
        prop_assert_eq!(DurableRecord::decode(bytes_of(&record)), Ok(record));
    }

    #[test]
    fn any_cut_or_flipped_byte_is_noticed(message in message(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let bytes = message.encode();
        let at = at.index(bytes.len());
        prop_assert!(Message::decode(bytes.slice(..at)).is_err());
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1_u8 << bit;
        prop_assert!(Message::decode(flipped.into()).is_err());
    }

    #[test]
    fn garbage_is_an_error_or_a_value_but_no_panic(garbage in vec(any::<u8>(), 0..200), tag in 0..8_u8) {
        let mut garbage = garbage;
        garbage.insert(0, tag);
        let _ = DurableRecord::decode(garbage.clone().into());
        // With a checksum that fits, the fields are looked at.
        let kind = tag.wrapping_mul(3);
        let mut message = vec![0x53, 0x59, 1, kind];
        message.extend(crc32c::crc32c_append(u32::from(kind), &garbage).to_le_bytes());
        message.extend(garbage);
        let _ = Message::decode(message.into());
    }
}

#[test]
fn a_length_beyond_the_end_is_refused_before_anything_is_allocated() {
    let mut bytes = BytesMut::new();
    DurableRecord::Base {
        chosen: 1,
        membership: Membership::default(),
    }
    .encode(&mut bytes);
    let count_at = bytes.len() - 4;
    bytes[count_at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(DurableRecord::decode(bytes.freeze()), Err(DecodeError::Truncated));
}

fn sample_entry() -> Entry {
    let id = ProposalId {
        node: NodeId(3),
        incarnation: 7,
        sequence: 9,
    };
    let command = Command {
        id,
        payload: Bytes::from_static(b"synod"),
    };
    Entry {
        position: 42,
        ballot: Ballot {
            round: 5,
            node: NodeId(2),
        },
        value: Value::Command(command),
    }
}

fn sample_membership() -> Membership {
    let member = Member {
        id: NodeId(1),
        log: LogId([0xab; 16]),
        voter: true,
        info: Bytes::from_static(b"a"),
    };
    Membership {
        version: 4,
        next_id: 2,
        members: vec![member],
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fixtures of format version 1. Lines are only ever added.
#[test]
fn bytes_of_version_1() {
    let message = |body| Message {
        log: LogId([1; 16]),
        session: 2,
        body,
    };
    let ballot = Ballot {
        round: 5,
        node: NodeId(2),
    };
    let lines = [
        hex(&bytes_of(&DurableRecord::Promise(ballot))),
        hex(&bytes_of(&DurableRecord::Accept(sample_entry()))),
        hex(&bytes_of(&DurableRecord::Chosen(42))),
        hex(&bytes_of(&DurableRecord::Base {
            chosen: 42,
            membership: sample_membership(),
        })),
        hex(&bytes_of(&DurableRecord::Trimmed(40))),
        hex(&message(Body::Accept {
            ballot,
            chosen: 41,
            entries: vec![sample_entry()],
        })
        .encode()),
        hex(&message(Body::Accepted {
            ballot,
            upto: 42,
            last: 43,
        })
        .encode()),
        hex(&message(Body::TailReply {
            session: 9,
            token: 8,
            position: Some(7),
        })
        .encode()),
    ];
    let known = include_str!("fixtures/version_1.txt");
    assert_eq!(lines.join("\n"), known.trim_end());
}

/// One message of each kind.
fn one_of_each() -> Vec<Body> {
    let ballot = Ballot {
        round: 5,
        node: NodeId(2),
    };
    let command = match sample_entry().value {
        Value::Command(command) => command,
        other => panic!("{other:?}"),
    };
    let member = Entry {
        value: Value::Membership(sample_membership()),
        ..sample_entry()
    };
    let noop = Entry {
        value: Value::Noop,
        ..sample_entry()
    };
    let change = |change| Body::Change { change };
    let info = || Bytes::from_static(b"somewhere");
    vec![
        Body::PreVote { ballot, chosen: 41 },
        Body::PreVoteReply {
            ballot,
            granted: true,
            promised: ballot,
            chosen: 41,
            leader: Some(NodeId(3)),
        },
        Body::Prepare {
            ballot,
            chosen: 41,
            from: 42,
        },
        Body::Promise {
            ballot,
            from: 42,
            entries: vec![sample_entry(), member, noop],
            next: Some(43),
            last: 44,
        },
        Body::Rejected {
            ballot,
            promised: ballot,
            chosen: 41,
        },
        Body::Heartbeat {
            ballot,
            round: 1,
            chosen: 2,
            sent: 3,
            lease_ms: 4,
        },
        Body::HeartbeatReply {
            ballot,
            round: 1,
            received: 2,
            upto: 3,
            last: 4,
            chosen: 5,
            gap: true,
        },
        Body::Gap { ballot, received: 41 },
        Body::Learn {
            entries: vec![sample_entry()],
            chosen: 42,
        },
        Body::Fetch { from: 42 },
        Body::Trimmed { below: 42 },
        Body::Forward {
            commands: vec![command],
        },
        Body::TailRequest { token: 8 },
        change(MembershipChange::AddLearner {
            log: LogId([7; 16]),
            info: info(),
        }),
        change(MembershipChange::Promote(NodeId(4))),
        change(MembershipChange::Remove(NodeId(4))),
        change(MembershipChange::Describe(NodeId(4), info())),
        Body::ChangeRefused {
            reason: "no".to_string(),
        },
        Body::Fenced {
            log: LogId([7; 16]),
            reason: "no".to_string(),
        },
        Body::TakeOver { ballot, chosen: 41 },
    ]
}

/// The kinds that the first fixture leaves out. Written when missing and `SYNOD_WRITE_FIXTURES` is set, never changed, only added to.
#[test]
fn every_kind_of_message_of_version_1() {
    let lines: Vec<String> = one_of_each()
        .into_iter()
        .map(|body| {
            let message = Message {
                log: LogId([1; 16]),
                session: 2,
                body,
            };
            assert_eq!(Message::decode(message.encode()).as_ref(), Ok(&message));
            hex(&message.encode())
        })
        .collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/messages_1.txt");
    if !path.exists() && std::env::var_os("SYNOD_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    assert_eq!(lines.join("\n"), std::fs::read_to_string(&path).unwrap().trim_end());
}
