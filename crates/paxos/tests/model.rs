//! Every order of events of two candidacies among three nodes, checked with stateright on the real step function.
//!
//! Pre-vote is taken as granted (it serves progress, not safety), heartbeats and watermarks are left out, and an fsync is
//! done at once: what is left is phase 1 and phase 2, with messages in any order or never, and one crash.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use stateright::{Checker, Model, Property};
use synod_paxos::{
    Action, Ballot, Body, Command, Entry, Event, LogId, Member, Membership, Message, Mutant, NodeId, Options, Paxos,
    ProposalId, Recovered, Value,
};

const NODES: u32 = 3;
const CANDIDATES: u32 = 2;

#[derive(Clone, Debug)]
struct Node {
    paxos: Paxos,
    disk: Recovered,
    chosen: Vec<Value>,
    has_stood: bool,
    /// Hash of the above.
    key: u64,
}

#[derive(Clone, Debug)]
struct State {
    nodes: Vec<Arc<Node>>,
    /// On the way, sorted so that equal states look equal.
    messages: Vec<(u64, NodeId, NodeId, Message)>,
    crashes_left: u32,
    key: u64,
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        self.key == other.key
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key.hash(hasher);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Stand(usize),
    Deliver(usize),
    Crash(usize),
}

struct TwoCandidates {
    mutant: Option<Mutant>,
    crashes: u32,
}

fn log_of(id: u32) -> LogId {
    LogId([id as u8; 16])
}

impl TwoCandidates {
    fn start(&self, id: u32, disk: &Recovered) -> Paxos {
        let mut options = Options::new(NodeId(id), log_of(id), u64::from(id));
        options.mutant = self.mutant;
        let mut paxos = Paxos::new(options, disk.clone());
        paxos.step(Event::Tick { now_ms: 0 }, &mut Vec::new());
        paxos
    }

    /// Let the node run into its election timeout and win the pre-vote.
    fn stand(&self, state: &mut State, index: usize) {
        let node = Arc::make_mut(&mut state.nodes[index]);
        node.has_stood = true;
        let id = ProposalId {
            node: NodeId(index as u32 + 1),
            incarnation: 1,
            sequence: 1,
        };
        node.paxos.step(
            Event::Propose(vec![Command {
                id,
                payload: Bytes::new(),
            }]),
            &mut Vec::new(),
        );
        let mut actions = Vec::new();
        for tick in 1..100 {
            node.paxos.step(Event::Tick { now_ms: tick * 100 }, &mut actions);
            if let Some(ballot) = actions.iter().find_map(pre_vote) {
                let (promised, chosen) = (Ballot::default(), 0);
                let body = Body::PreVoteReply {
                    ballot,
                    granted: true,
                    promised,
                    chosen,
                    leader: None,
                };
                for from in (1..=NODES).filter(|from| *from as usize != index + 1) {
                    let message = Message {
                        log: log_of(from),
                        session: 0,
                        body: body.clone(),
                    };
                    self.step(
                        state,
                        index,
                        Event::Receive {
                            from: NodeId(from),
                            message,
                        },
                    );
                }
                return;
            }
        }
    }

    fn step(&self, state: &mut State, index: usize, event: Event) {
        let mut actions = Vec::new();
        Arc::make_mut(&mut state.nodes[index]).paxos.step(event, &mut actions);
        for action in actions {
            match action {
                Action::Send { to, message } => to.iter().for_each(|to| send(state, index, *to, &message)),
                Action::Note(record) => Arc::make_mut(&mut state.nodes[index]).disk.replay(record),
                Action::Persist { ticket, records, then } => {
                    records
                        .into_iter()
                        .for_each(|record| Arc::make_mut(&mut state.nodes[index]).disk.replay(record));
                    then.iter().for_each(|(to, message)| send(state, index, *to, message));
                    self.step(state, index, Event::Persisted { ticket });
                }
                Action::Chosen(entries) => {
                    let values = entries.into_iter().map(|entry: Entry| entry.value);
                    Arc::make_mut(&mut state.nodes[index]).chosen.extend(values);
                }
                _ => {}
            }
        }
    }
}

fn pre_vote(action: &Action) -> Option<Ballot> {
    match action {
        Action::Send {
            message: Message {
                body: Body::PreVote { ballot, .. },
                ..
            },
            ..
        } => Some(*ballot),
        _ => None,
    }
}

fn send(state: &mut State, from: usize, to: NodeId, message: &Message) {
    let matters = match &message.body {
        Body::Prepare { .. } | Body::Promise { .. } | Body::Accepted { .. } => true,
        Body::Accept { entries, .. } => !entries.is_empty(),
        _ => false,
    };
    if !matters {
        return;
    }
    let (from, message) = (NodeId(from as u32 + 1), message.clone());
    let key = hash_of(&(from, to, &message));
    if !state.messages.iter().any(|(known, ..)| *known == key) {
        state.messages.push((key, from, to, message));
    }
}

fn hash_of(what: &impl std::fmt::Debug) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{what:?}").hash(&mut hasher);
    hasher.finish()
}

/// Name the state, after a step of one node.
fn seal(mut state: State, stepped: usize) -> State {
    let node = Arc::make_mut(&mut state.nodes[stepped]);
    node.key = 0;
    node.key = hash_of(node);
    state.messages.sort_by_key(|(key, ..)| *key);
    let nodes: Vec<u64> = state.nodes.iter().map(|node| node.key).collect();
    let messages: Vec<u64> = state.messages.iter().map(|(key, ..)| *key).collect();
    state.key = hash_of(&(nodes, messages, state.crashes_left));
    state
}

impl Model for TwoCandidates {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let members = (1..=NODES).map(|id| Member {
            id: NodeId(id),
            log: log_of(id),
            voter: true,
            info: Bytes::new(),
        });
        let membership = Membership {
            version: 1,
            next_id: NODES + 1,
            members: members.collect(),
        };
        let disk = Recovered {
            membership,
            ..Recovered::default()
        };
        let nodes = (1..=NODES).map(|id| Node {
            paxos: self.start(id, &disk),
            disk: disk.clone(),
            chosen: Vec::new(),
            has_stood: false,
            key: u64::from(id),
        });
        let nodes = nodes.map(Arc::new).collect();
        vec![seal(
            State {
                nodes,
                messages: Vec::new(),
                crashes_left: self.crashes,
                key: 0,
            },
            0,
        )]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let candidates = (0..CANDIDATES as usize).filter(|index| !state.nodes[*index].has_stood);
        actions.extend(candidates.map(Step::Stand));
        actions.extend((0..state.messages.len()).map(Step::Deliver));
        if state.crashes_left > 0 && !state.messages.is_empty() {
            // The third node is the one that both candidates need.
            actions.push(Step::Crash(NODES as usize - 1));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        let stepped = match step {
            Step::Stand(index) => {
                self.stand(&mut state, index);
                index
            }
            Step::Deliver(number) => {
                let (_, from, to, message) = state.messages.remove(number);
                let index = to.0 as usize - 1;
                self.step(&mut state, index, Event::Receive { from, message });
                index
            }
            Step::Crash(index) => {
                state.crashes_left -= 1;
                let node = Arc::make_mut(&mut state.nodes[index]);
                node.paxos = self.start(index as u32 + 1, &node.disk);
                node.chosen.clear();
                index
            }
        };
        Some(seal(state, stepped))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one value per position", |_, state: &State| {
                let pairs = state.nodes.iter().flat_map(|a| state.nodes.iter().map(move |b| (a, b)));
                pairs
                    .into_iter()
                    .all(|(a, b)| a.chosen.iter().zip(&b.chosen).all(|(a, b)| a == b))
            }),
            Property::sometimes("both candidates see something chosen", |_, state: &State| {
                state
                    .nodes
                    .iter()
                    .take(CANDIDATES as usize)
                    .all(|node| node.chosen.len() > 1)
            }),
        ]
    }
}

#[test]
fn phase_1_and_2_agree_in_every_order() {
    let model = TwoCandidates {
        mutant: None,
        crashes: 0,
    };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(
        checker.unique_state_count() > 1000,
        "{} states",
        checker.unique_state_count()
    );
}

#[test]
fn model_finds_mutants() {
    for (mutant, crashes) in [
        (Mutant::AcceptBelowPromise, 0),
        (Mutant::PromiseReportsNothing, 0),
        (Mutant::PromiseNotRecorded, 1),
    ] {
        let checker = TwoCandidates {
            mutant: Some(mutant),
            crashes,
        }
        .checker()
        .spawn_dfs()
        .join();
        assert!(
            checker.discovery("one value per position").is_some(),
            "{mutant:?} not found"
        );
    }
}
