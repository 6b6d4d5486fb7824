//! A member that speaks the protocol and says anything: the others must neither panic nor take memory without bound.
//! Covers crates/paxos/src/node.rs.
//!
//! A node of a group of three gets messages of the two others and of strangers, made of the input: kinds and numbers are
//! the input's, the frame around them is right. What it is asked to write is reported as durable.
#![no_main]

use bytes::Bytes;
use synod_fuzz::Pieces;
use synod_paxos::{
    Action, Command, Event, LogId, Member, Membership, MembershipChange, Message, NodeId, Options, Paxos, ProposalId,
    Recovered,
};

const MOST_STEPS: usize = 300;

fn log(id: u32) -> LogId {
    LogId([id as u8; 16])
}

fn group() -> Membership {
    let member = |id| Member {
        id: NodeId(id),
        log: log(id),
        voter: true,
        info: Bytes::from_static(b"somewhere"),
    };
    Membership {
        version: 1,
        next_id: 4,
        members: (1..4).map(member).collect(),
    }
}

/// A message with these fields, if there can be one.
fn message(from: u32, kind: u8, fields: &[u8]) -> Option<Message> {
    let mut content = log(from).0.to_vec();
    content.extend_from_slice(&5u64.to_le_bytes());
    content.extend_from_slice(fields);
    let mut bytes = vec![0x53, 0x59, 1, kind];
    bytes.extend_from_slice(&crc32c::crc32c_append(u32::from(kind), &content).to_le_bytes());
    bytes.extend_from_slice(&content);
    Message::decode(bytes.into()).ok()
}

fn event(pieces: &mut Pieces<'_>, now_ms: &mut u64, sequence: &mut u64) -> Option<Event> {
    Some(match pieces.u8() {
        0..=3 => {
            *now_ms = now_ms.saturating_add(u64::from(pieces.u8()) * 20);
            Event::Tick { now_ms: *now_ms }
        }
        4 => {
            *sequence += 1;
            let id = ProposalId {
                node: NodeId(1),
                incarnation: 1,
                sequence: *sequence,
            };
            Event::Propose(vec![Command {
                id,
                payload: Bytes::from_static(b"ours"),
            }])
        }
        5 => {
            *sequence += 1;
            Event::Tail { token: *sequence }
        }
        6 => Event::ChangeMembership(MembershipChange::Remove(NodeId(u32::from(pieces.u8())))),
        7 => Event::ReadFailed { to: NodeId(2) },
        8 => Event::Linked {
            peer: NodeId(u32::from(pieces.u8())),
        },
        other => {
            let from = 2 + u32::from(other % 3);
            let kind = pieces.u8() % 20;
            Event::Receive {
                from: NodeId(from),
                message: message(from, kind, pieces.bytes(4096))?,
            }
        }
    })
}

synod_fuzz::target!(|data: &[u8]| {
    let recovered = Recovered {
        membership: group(),
        ..Recovered::default()
    };
    let mut node = Paxos::new(Options::new(NodeId(1), log(1), 77), recovered);
    node.set_clock(1);
    let mut pieces = Pieces(data);
    let (mut now_ms, mut sequence) = (0, 0);
    let mut actions = Vec::new();
    let mut chosen = 0;
    for _ in 0..MOST_STEPS {
        if pieces.is_empty() {
            break;
        }
        let Some(event) = event(&mut pieces, &mut now_ms, &mut sequence) else {
            continue;
        };
        node.step(event, &mut actions);
        let mut rounds = 0;
        while !actions.is_empty() {
            rounds += 1;
            assert!(rounds < 1000, "the node keeps itself busy");
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Persist { ticket, .. } => node.step(Event::Persisted { ticket }, &mut actions),
                    Action::Chosen(entries) => {
                        for entry in entries {
                            chosen += 1;
                            assert_eq!(entry.position, chosen, "chosen entries are told in order");
                        }
                    }
                    Action::Send { message, .. } => {
                        assert!(message.encode().len() <= synod_log::frames::MAX_FRAME_BYTES);
                    }
                    _ => {}
                }
            }
        }
        assert!(node.chosen() <= node.proposed() && node.trimmed() <= node.chosen() + 1);
        let _ = (node.next_tick_ms(), node.checkpoint(), node.acknowledged());
    }
});
