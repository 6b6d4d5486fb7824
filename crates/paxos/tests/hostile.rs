//! A member that speaks the protocol and says what no sound member says: the others neither panic, nor take memory without
//! bound, nor run out of numbers. What it writes they believe: that is the trust between members (`docs/src/trust.md`).

use bytes::Bytes;
use synod_paxos::{
    Action, Ballot, Body, Command, Entry, Event, LogId, MAX_POSITION, Member, Membership, MembershipChange, Message,
    NodeId, Options, Paxos, ProposalId, Recovered, Value,
};

const HONEST: [u32; 2] = [1, 2];
const HOSTILE: NodeId = NodeId(3);
const LAST: u64 = u64::MAX;

fn log(id: u32) -> LogId {
    LogId([id as u8; 16])
}

fn members(voters: u32) -> Vec<Member> {
    let member = |id| Member {
        id: NodeId(id),
        log: log(id),
        voter: true,
        info: Bytes::from_static(b"somewhere"),
    };
    (1..=voters).map(member).collect()
}

/// Two sound nodes of a group of three, and what the third one says to them.
struct Group {
    nodes: Vec<Paxos>,
    now_ms: u64,
    chosen: Vec<Vec<Entry>>,
    told_to_hostile: Vec<Body>,
}

impl Group {
    fn new() -> Group {
        Group::with(|_| ())
    }

    fn with(adjust: impl Fn(&mut Options)) -> Group {
        let membership = Membership {
            version: 1,
            next_id: 4,
            members: members(3),
        };
        let node = |id: u32| {
            let mut options = Options::new(NodeId(id), log(id), u64::from(id));
            adjust(&mut options);
            let recovered = Recovered {
                membership: membership.clone(),
                ..Recovered::default()
            };
            Paxos::new(options, recovered)
        };
        Group {
            nodes: HONEST.into_iter().map(node).collect(),
            now_ms: 0,
            chosen: vec![Vec::new(); HONEST.len()],
            told_to_hostile: Vec::new(),
        }
    }

    /// An event at one of the sound nodes, and all that follows from it between them.
    fn happens(&mut self, at: usize, event: Event) {
        let mut waiting = std::collections::VecDeque::from([(at, event)]);
        while let Some((at, event)) = waiting.pop_front() {
            let mut actions = Vec::new();
            self.nodes[at].step(event, &mut actions);
            let from = NodeId(at as u32 + 1);
            for action in actions {
                match action {
                    Action::Send { to, message } => {
                        for to in to {
                            self.post(&mut waiting, from, to, message.clone());
                        }
                    }
                    Action::Persist { ticket, then, .. } => {
                        for (to, message) in then {
                            self.post(&mut waiting, from, to, message);
                        }
                        waiting.push_back((at, Event::Persisted { ticket }));
                    }
                    Action::Chosen(entries) => self.chosen[at].extend(entries),
                    _ => {}
                }
            }
        }
    }

    fn post(
        &mut self,
        waiting: &mut std::collections::VecDeque<(usize, Event)>,
        from: NodeId,
        to: NodeId,
        message: Message,
    ) {
        if to == HOSTILE {
            self.told_to_hostile.push(message.body);
        } else {
            waiting.push_back((to.0 as usize - 1, Event::Receive { from, message }));
        }
    }

    /// The hostile member says this to both.
    fn says(&mut self, body: &Body) {
        for at in 0..HONEST.len() {
            let message = said(body.clone());
            self.happens(at, Event::Receive { from: HOSTILE, message });
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        for at in 0..HONEST.len() {
            let now_ms = self.now_ms;
            self.happens(at, Event::Tick { now_ms });
        }
    }

    /// The two sound nodes go on without the third: they elect, and choose what is proposed.
    fn assert_goes_on(&mut self, after: &str) {
        let before = self.chosen[0].len();
        for sequence in 1..400 {
            self.pass(50);
            if self.nodes[0].leader().is_some() && self.nodes[0].pending() == 0 {
                self.happens(0, Event::Propose(vec![command(1, sequence, b"goes on")]));
            }
            let done = |entries: &[Entry]| {
                let ours = |entry: &&Entry| matches!(&entry.value, Value::Command(command) if command.payload[..] == b"goes on"[..]);
                entries.iter().skip(before).filter(ours).count() > 0
            };
            if done(&self.chosen[0]) {
                return;
            }
        }
        panic!(
            "nothing is chosen any more after {after}: leaders {:?}, ballots {:?}",
            self.nodes.iter().map(Paxos::leader).collect::<Vec<_>>(),
            self.nodes.iter().map(Paxos::ballot).collect::<Vec<_>>()
        );
    }

    fn leader(&mut self) -> usize {
        for _ in 0..400 {
            self.pass(50);
            for at in 0..HONEST.len() {
                if self.nodes[at].leader() == Some(self.nodes[at].id()) {
                    return at;
                }
            }
        }
        panic!("no leader");
    }
}

fn said(body: Body) -> Message {
    // What travels: a decoder stands between a peer and the node.
    let message = Message {
        log: log(HOSTILE.0),
        session: 7,
        body,
    };
    Message::decode(message.encode()).unwrap_or(message)
}

fn command(node: u32, sequence: u64, payload: &'static [u8]) -> Command {
    Command {
        id: ProposalId {
            node: NodeId(node),
            incarnation: 1,
            sequence,
        },
        payload: Bytes::from_static(payload),
    }
}

fn ballot(round: u64, node: NodeId) -> Ballot {
    Ballot { round, node }
}

fn noop(position: u64, ballot: Ballot) -> Entry {
    Entry {
        position,
        ballot,
        value: Value::Noop,
    }
}

#[test]
fn a_ballot_of_the_last_round_does_not_end_elections_for_ever() {
    let mine = ballot(LAST, HOSTILE);
    let entry = noop(1, mine);
    let claims = [
        Body::PreVote {
            ballot: mine,
            chosen: 0,
        },
        Body::PreVoteReply {
            ballot: mine,
            granted: false,
            promised: mine,
            chosen: 0,
            leader: None,
        },
        Body::Prepare {
            ballot: mine,
            chosen: 0,
            from: 1,
        },
        Body::Rejected {
            ballot: mine,
            promised: mine,
            chosen: 0,
        },
        Body::Accept {
            ballot: mine,
            chosen: 0,
            entries: vec![entry.clone()],
        },
        Body::Heartbeat {
            ballot: mine,
            round: LAST,
            chosen: LAST,
            sent: LAST,
            lease_ms: LAST,
        },
        Body::Learn {
            entries: vec![entry],
            chosen: 1,
        },
    ];
    for claim in claims {
        let mut group = Group::new();
        group.says(&claim);
        assert!(
            group.nodes.iter().all(|node| node.ballot().round < LAST / 2),
            "{claim:?}"
        );
        group.assert_goes_on(&format!("{claim:?}"));
        // And to a leader.
        group.says(&claim);
        group.assert_goes_on(&format!("a leader was told {claim:?}"));
    }
}

#[test]
fn rounds_that_a_node_missed_are_no_reason_to_refuse_a_ballot() {
    let mut group = Group::new();
    let later = ballot(100_000_000, HOSTILE);
    group.says(&Body::Heartbeat {
        ballot: later,
        round: 1,
        chosen: 0,
        sent: 0,
        lease_ms: 0,
    });
    assert!(group.nodes.iter().all(|node| node.leader() == Some(HOSTILE)));
}

#[test]
fn a_promise_that_reports_a_position_far_away_does_not_fill_the_memory() {
    for (first, position) in [(1, MAX_POSITION), (1, 1 << 40), (1, 0)] {
        let mut group = Group::new();
        // Node 2 is silent: node 1 needs the hostile one.
        let mut asked = None;
        let mut actions = Vec::new();
        for step in 1..200 {
            let now_ms = step * 50;
            group.nodes[0].step(Event::Tick { now_ms }, &mut actions);
            while let Some(action) = actions.pop() {
                match action {
                    Action::Send { to, message } if to.contains(&HOSTILE) => {
                        if let Body::PreVote { ballot, .. } = message.body {
                            let grant = Body::PreVoteReply {
                                ballot,
                                granted: true,
                                promised: Ballot::default(),
                                chosen: 0,
                                leader: None,
                            };
                            let message = said(grant);
                            group.nodes[0].step(Event::Receive { from: HOSTILE, message }, &mut actions);
                        }
                    }
                    Action::Persist { ticket, then, .. } => {
                        for (_, message) in then {
                            if let Body::Prepare { ballot, .. } = message.body {
                                asked = Some(ballot);
                            }
                        }
                        group.nodes[0].step(Event::Persisted { ticket }, &mut actions);
                    }
                    _ => {}
                }
            }
            if asked.is_some() {
                break;
            }
        }
        let ballot = asked.expect("a candidate");
        let promise = Body::Promise {
            ballot,
            from: first,
            entries: vec![noop(position, ballot)],
            next: None,
            last: position,
        };
        let message = said(promise);
        group.nodes[0].step(Event::Receive { from: HOSTILE, message }, &mut actions);
        assert_ne!(
            group.nodes[0].leader(),
            Some(NodeId(1)),
            "elected by a promise for {position}"
        );
        group.assert_goes_on("a promise");
    }
}

#[test]
fn numbers_at_their_end_do_not_overflow() {
    let mut group = Group::new();
    let at = group.leader();
    let theirs = group.nodes[at].ballot();
    let chosen = group.nodes[at].chosen();
    for number in [LAST, LAST - 1, MAX_POSITION, 0] {
        for body in [
            Body::Gap {
                ballot: theirs,
                received: number,
            },
            Body::HeartbeatReply {
                ballot: theirs,
                round: 0,
                received: number,
                upto: number,
                last: number,
                chosen: number,
                gap: true,
            },
            Body::Accepted {
                ballot: theirs,
                upto: number,
                last: number,
            },
            Body::Fetch { from: number },
            Body::Trimmed { below: number },
            Body::TailRequest { token: number },
            Body::TailReply {
                session: 1,
                token: number,
                position: Some(number),
            },
            Body::Learn {
                entries: vec![noop(number, theirs), noop(number.wrapping_add(1), theirs)],
                chosen: number,
            },
            Body::Accept {
                ballot: ballot(theirs.round, HOSTILE),
                chosen: number,
                entries: vec![
                    noop(number, ballot(theirs.round, HOSTILE)),
                    noop(number.wrapping_add(1), ballot(theirs.round, HOSTILE)),
                ],
            },
            Body::Change {
                change: MembershipChange::Promote(NodeId(number as u32)),
            },
            Body::Change {
                change: MembershipChange::Promote(HOSTILE),
            },
        ] {
            group.says(&body);
        }
    }
    assert!(group.nodes.iter().all(|node| node.chosen() < chosen + 1000));
    group.assert_goes_on("numbers at their end");
}

#[test]
fn nobody_copies_everything_because_one_member_says_so() {
    let mut group = Group::new();
    let leader = NodeId(group.leader() as u32 + 1);
    let at = 2 - leader.0 as usize;
    let mut actions = Vec::new();
    let mut hears = |group: &mut Group, from: NodeId, below| {
        let mut message = said(Body::Trimmed { below });
        message.log = log(from.0);
        actions.clear();
        group.nodes[at].step(Event::Receive { from, message }, &mut actions);
        let is_sent_away = actions
            .iter()
            .any(|action| matches!(action, Action::TooFarBehind { .. }));
        let asks = actions.iter().find_map(|action| match action {
            Action::Send { to, message } if matches!(message.body, Body::Fetch { .. }) => Some(to.clone()),
            _ => None,
        });
        (is_sent_away, asks)
    };
    for below in [LAST, MAX_POSITION + 1] {
        assert_eq!(hears(&mut group, HOSTILE, below), (false, None), "{below}");
    }
    // It asks the next one instead, and the leader shows that nothing is missing.
    for _ in 0..300 {
        assert_eq!(hears(&mut group, HOSTILE, 1000), (false, Some(vec![leader])));
        group.pass(50);
    }
    assert_eq!(hears(&mut group, HOSTILE, 1000), (false, Some(vec![leader])));
    assert_eq!(hears(&mut group, leader, 1000), (true, None));
}

#[test]
fn a_flood_of_questions_is_answered_once() {
    let mut group = Group::new();
    let at = group.leader();
    let commands = (1..2000)
        .map(|sequence| command(at as u32 + 1, sequence, b"x"))
        .collect();
    group.happens(at, Event::Propose(commands));
    let ballot = group.nodes[at].ballot();
    let questions = [
        Body::Fetch { from: 1 },
        Body::Prepare {
            ballot: Ballot {
                round: ballot.round + 1,
                node: HOSTILE,
            },
            chosen: MAX_POSITION,
            from: 1,
        },
    ];
    for question in questions {
        let mut actions = Vec::new();
        for _ in 0..10_000 {
            let message = said(question.clone());
            group.nodes[at].handle(Event::Receive { from: HOSTILE, message }, &mut actions);
        }
        group.nodes[at].flush(&mut actions);
        let long = |message: &Message| matches!(message.body, Body::Learn { .. } | Body::Promise { .. });
        let answers: usize = actions
            .iter()
            .map(|action| match action {
                Action::Send { message, .. } => usize::from(long(message)),
                Action::Persist { then, .. } => then.iter().filter(|(_, message)| long(message)).count(),
                _ => 0,
            })
            .sum();
        assert_eq!(answers, 1, "{question:?}");
    }
}

#[test]
fn empty_proposals_fill_a_queue_like_any() {
    let mut group = Group::with(|options| options.queue_bytes = 24 * 100);
    let at = group.leader();
    let before = group.chosen[at].len();
    let commands: Vec<_> = (1..=5000).map(|sequence| command(3, sequence, b"")).collect();
    let message = said(Body::Forward { commands });
    group.happens(at, Event::Receive { from: HOSTILE, message });
    group.assert_goes_on("many proposals");
    let taken = group.chosen[at].len() - before;
    assert!((100..200).contains(&taken), "{taken} of 5000 were taken in one go");
}

#[test]
fn a_payload_above_the_limit_does_not_come_in() {
    let payload = Bytes::from(vec![0; synod_paxos::MAX_PAYLOAD_BYTES + 1]);
    let id = command(3, 1, b"").id;
    let commands = vec![Command { id, payload }];
    let message = Message {
        log: log(3),
        session: 7,
        body: Body::Forward { commands },
    };
    assert!(Message::decode(message.encode()).is_err());
}

#[test]
fn memberships_that_cannot_be_are_not_accepted() {
    let sound = Membership {
        version: 2,
        next_id: 4,
        members: members(3),
    };
    let with = |change: &dyn Fn(&mut Membership)| {
        let mut membership = sound.clone();
        change(&mut membership);
        membership
    };
    let junk = [
        with(&|membership| membership.members.clear()),
        with(&|membership| membership.members.reverse()),
        with(&|membership| membership.members[1] = membership.members[0].clone()),
        with(&|membership| membership.members.iter_mut().for_each(|member| member.voter = false)),
        with(&|membership| membership.version = LAST),
        with(&|membership| membership.next_id = 3),
        with(&|membership| membership.next_id = u32::MAX),
    ];
    for membership in junk {
        let mut group = Group::new();
        let mine = ballot(50, HOSTILE);
        let entry = Entry {
            position: 1,
            ballot: mine,
            value: Value::Membership(membership.clone()),
        };
        for body in [
            Body::Accept {
                ballot: mine,
                chosen: 1,
                entries: vec![entry.clone()],
            },
            Body::Learn {
                entries: vec![entry],
                chosen: 1,
            },
        ] {
            group.says(&body);
        }
        assert!(
            group.nodes.iter().all(|node| node.membership().version == 1),
            "{membership:?}"
        );
        group.assert_goes_on(&format!("{membership:?}"));
    }
}
