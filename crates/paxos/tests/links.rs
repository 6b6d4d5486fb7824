//! What is lost with a link is said again as soon as it stands: until then a proposal waited for its deadline of two seconds, and
//! with it every node that joins or starts, which knows its leader before it can speak to it.

use bytes::Bytes;
use synod_paxos::{Action, Ballot, Body, Command, Event, Message, NodeId, Paxos, ProposalId};

mod three;

use three::{log, node};

const LEADER: NodeId = NodeId(2);

/// Node 1 of three; it hears node 2 lead.
fn follower() -> Paxos {
    let mut paxos = node();
    let heartbeat = Body::Heartbeat {
        ballot: Ballot { round: 1, node: LEADER },
        round: 1,
        chosen: 0,
        sent: 0,
        lease_ms: 0,
    };
    let message = Message {
        log: log(2),
        session: 2,
        body: heartbeat,
    };
    paxos.step(Event::Receive { from: LEADER, message }, &mut Vec::new());
    assert_eq!(paxos.leader(), Some(LEADER));
    paxos
}

/// How many proposals are sent to whom, and the questions that are given up.
fn said(paxos: &mut Paxos, event: Event) -> (Vec<(NodeId, usize)>, Vec<u64>) {
    let mut actions = Vec::new();
    paxos.step(event, &mut actions);
    let (mut forwarded, mut failed) = (Vec::new(), Vec::new());
    for action in actions {
        match action {
            Action::Send { to, message } => {
                if let Body::Forward { commands } = &message.body {
                    forwarded.extend(to.iter().map(|to| (*to, commands.len())));
                }
            }
            Action::TailFailed { token } => failed.push(token),
            _ => {}
        }
    }
    (forwarded, failed)
}

#[test]
fn what_a_leader_did_not_get_is_sent_when_the_link_to_it_stands() {
    let mut paxos = follower();
    let proposals = (1..=3).map(|sequence| Command {
        id: ProposalId {
            node: NodeId(1),
            incarnation: 1,
            sequence,
        },
        payload: Bytes::from_static(b"ours"),
    });
    let sent = said(&mut paxos, Event::Propose(proposals.collect()));
    assert_eq!(sent, (vec![(LEADER, 3)], vec![]));
    said(&mut paxos, Event::Tail { token: 7 });
    // Not when it is somebody else's link.
    assert_eq!(said(&mut paxos, Event::Linked { peer: NodeId(3) }), (vec![], vec![]));
    assert_eq!(
        said(&mut paxos, Event::Linked { peer: LEADER }),
        (vec![(LEADER, 3)], vec![7])
    );
}
