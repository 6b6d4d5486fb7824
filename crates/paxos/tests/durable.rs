//! What a node takes for durable on its own disk: not an entry in whose place another one has come since it was written.

use bytes::Bytes;
use synod_paxos::{Action, Ballot, Body, Command, Entry, Event, Message, NodeId, Paxos, ProposalId, Value};

mod three;

use three::{log, node};

/// The leader of a ballot proposes three entries of its own, of which all up to `chosen` are chosen; the ticket with which they will be
/// durable here.
fn accept(paxos: &mut Paxos, round: u64, leader: u32, chosen: u64) -> u64 {
    let (node, ballot) = (
        NodeId(leader),
        Ballot {
            round,
            node: NodeId(leader),
        },
    );
    let entry = |position| Entry {
        position,
        ballot,
        value: Value::Command(Command {
            id: ProposalId {
                node,
                incarnation: 1,
                sequence: position,
            },
            payload: Bytes::from(format!("{position} of {leader}")),
        }),
    };
    let body = Body::Accept {
        ballot,
        chosen,
        entries: (1..=3).map(entry).collect(),
    };
    let message = Message {
        log: log(leader),
        session: leader.into(),
        body,
    };
    let mut actions = Vec::new();
    paxos.step(Event::Receive { from: node, message }, &mut actions);
    let tickets = actions.iter().filter_map(|action| match action {
        Action::Persist { ticket, .. } => Some(*ticket),
        _ => None,
    });
    tickets.last().expect("what was accepted is written")
}

#[test]
fn a_write_of_an_older_ballot_makes_nothing_durable_that_came_after_it() {
    let mut paxos = node();
    let old = accept(&mut paxos, 1, 2, 0);
    let new = accept(&mut paxos, 2, 3, 3);
    assert_eq!((paxos.chosen(), paxos.durable()), (3, 0));
    paxos.step(Event::Persisted { ticket: old }, &mut Vec::new());
    assert_eq!(
        paxos.durable(),
        0,
        "the entries of the newer ballot are not written yet"
    );
    paxos.step(Event::Persisted { ticket: new }, &mut Vec::new());
    assert_eq!(paxos.durable(), 3);
}
