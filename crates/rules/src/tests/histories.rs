//! Random histories: the certifier and the oracle agree at every step, also when it is saved and loaded on the way.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::{Body, Key, KeyMode, Record, WriteRecord};

use super::oracle::Oracle;
use crate::window::Window;
use crate::{Certifier, CommandId, Input, MAX_SEQUENCE_LEAD};

/// Small enough that every history overflows it.
const LIMITS: (usize, usize) = (6, 16);

/// One step, made concrete by [`history`].
#[derive(Clone, Debug)]
pub struct Step {
    kind: u8,
    node: u32,
    lag: u64,
    pick: prop::sample::Index,
    keys: Vec<Key>,
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = (0u64..8, 0u8..4).prop_map(|(hash, mode)| Key {
        hash,
        mode: KeyMode::from_u8(mode).unwrap(),
    });
    let lag = prop_oneof![4 => 0u64..4, 2 => 4u64..12, 1 => 12u64..60];
    let step = (0u8..32, 1u32..4, lag, any::<prop::sample::Index>(), vec(key, 0..4)).prop_map(
        |(kind, node, lag, pick, keys)| Step {
            kind,
            node,
            lag,
            pick,
            keys,
        },
    );
    vec(step, 0..150)
}

pub type Entry = Option<(CommandId, Record)>;

#[derive(Clone, Default)]
struct Proposer {
    incarnation: u64,
    next: u64,
    /// Sequences left out so far.
    gaps: Vec<u64>,
}

impl Proposer {
    fn id(&mut self, node: u32) -> CommandId {
        self.next += 1;
        CommandId {
            node,
            incarnation: self.incarnation,
            sequence: self.next,
        }
    }
}

/// What the proposers put into the log, most of it lawful.
pub fn history(steps: &[Step]) -> Vec<Entry> {
    let mut log: Vec<Entry> = Vec::new();
    let mut proposers = vec![Proposer::default(); 4];
    let mut fragments: Vec<(u32, u64)> = Vec::new();
    for step in steps {
        let position = log.len() as u64 + 1;
        let proposer = &mut proposers[step.node as usize];
        let base = (position - 1).saturating_sub(step.lag);
        let mut write = WriteRecord {
            base,
            transaction: Default::default(),
            commit_time_us: 0,
            keys: step.keys.clone(),
            body: Body::Inline(Bytes::new()),
        };
        let entry = match step.kind {
            0 => None,
            1 => {
                *proposer = Proposer {
                    incarnation: proposer.incarnation + 1,
                    ..Proposer::default()
                };
                Some((proposer.id(step.node), start()))
            }
            2 | 3 if !log.is_empty() => log[step.pick.index(log.len())].clone(),
            // An older incarnation, and one that never started.
            4 => {
                let incarnation = proposer.incarnation.saturating_sub(1);
                Some((
                    CommandId {
                        incarnation,
                        ..proposer.id(step.node)
                    },
                    Record::Write(write),
                ))
            }
            5 if step.lag == 0 => {
                proposer.incarnation += 1;
                Some((proposer.id(step.node), Record::Write(write)))
            }
            6 | 7 => {
                let id = proposer.id(step.node);
                proposer.gaps.push(id.sequence);
                Some((proposer.id(step.node), Record::Write(write)))
            }
            8..=10 if !proposer.gaps.is_empty() => {
                let sequence = proposer.gaps.remove(step.pick.index(proposer.gaps.len()));
                let id = CommandId {
                    node: step.node,
                    incarnation: proposer.incarnation,
                    sequence,
                };
                Some((id, Record::Write(write)))
            }
            11 if step.lag == 1 => {
                let sequence = proposer.next + MAX_SEQUENCE_LEAD + step.keys.len() as u64;
                Some((
                    CommandId {
                        sequence,
                        ..proposer.id(step.node)
                    },
                    Record::Write(write),
                ))
            }
            12 if step.lag == 2 => {
                write.base = position + step.keys.len() as u64;
                Some((proposer.id(step.node), Record::Write(write)))
            }
            13 if step.lag == 3 => Some((proposer.id(step.node), start())),
            14..=16 => {
                fragments.push((step.node, position));
                Some((proposer.id(step.node), Record::Fragment(Bytes::new())))
            }
            17..=20 if !fragments.is_empty() => {
                let from = step.pick.index(fragments.len());
                let whole = fragments[from..].iter().take(2);
                // Mostly the node's own.
                let own = whole.filter(|(node, _)| *node == step.node || step.lag == 0);
                let positions = own.map(|(_, position)| *position).collect();
                write.body = Body::Fragments {
                    positions,
                    length: 0,
                    crc: 0,
                };
                Some((proposer.id(step.node), Record::Write(write)))
            }
            _ => Some((proposer.id(step.node), Record::Write(write))),
        };
        log.push(entry);
        // Every node has begun before it is interesting.
        if position <= 3 {
            let node = position as u32;
            proposers[node as usize] = Proposer {
                incarnation: 1,
                next: 1,
                gaps: Vec::new(),
            };
            *log.last_mut().unwrap() = Some(((node, 1, 1).into(), start()));
        }
    }
    log
}

fn start() -> Record {
    Record::Start {
        postgres_version: 150_020,
        synod_version: 100,
    }
}

pub fn input(entry: &Entry) -> Input<'_> {
    match entry {
        None => Input::Nothing,
        Some((id, record)) => Input::Command { id: *id, record },
    }
}

pub fn small() -> Certifier {
    let (records, keys) = LIMITS;
    Certifier::with_window(Window::with_limits(records, keys))
}

pub fn reload(certifier: &Certifier) -> Certifier {
    let (records, keys) = LIMITS;
    Certifier::decode_into(&certifier.encode(), Window::with_limits(records, keys)).expect("just encoded")
}

/// What is wrong with the certifier on this history, if anything.
pub fn disagreement(steps: &[Step], saved_after: prop::sample::Index) -> Result<(), String> {
    let log = history(steps);
    let saved_after = saved_after.index(log.len() + 1);
    let (mut certifier, mut oracle, mut resumed) = (small(), Oracle::new(LIMITS), None);
    for (at, (entry, step)) in log.iter().zip(steps).enumerate() {
        if at == saved_after {
            resumed = Some(reload(&certifier));
        }
        let position = at as u64 + 1;
        let expected = oracle.apply(entry.as_ref().map(|(id, record)| (*id, record)));
        let verdict = certifier.apply(position, input(entry));
        if verdict != expected {
            return Err(format!("{position}: {entry:?}: {verdict:?}, should be {expected:?}"));
        }
        let keys = || {
            step.keys
                .iter()
                .map(|key| (*key, (position + 1).saturating_sub(step.lag)))
        };
        let (got, expected) = (certifier.check(Default::default(), keys()), oracle.check(keys()));
        if got != expected {
            return Err(format!(
                "{position}: check {keys:?}: {got:?}, should be {expected:?}",
                keys = step.keys
            ));
        }
        let got = (
            certifier.floor(),
            certifier.last_commit(),
            certifier.oldest_open_fragment(),
        );
        let expected = (oracle.floor(), oracle.last_commit(), oracle.oldest_open_fragment());
        if got != expected {
            return Err(format!(
                "{position}: floor, last commit, fragment: {got:?}, should be {expected:?}"
            ));
        }
        if let Some(resumed) = &mut resumed {
            let again = resumed.apply(position, input(entry));
            let whole = certifier.encode();
            if resumed.encode() != whole || reload(&certifier).encode() != whole {
                return Err(format!(
                    "{position}: a checkpoint after {saved_after} leads to another state"
                ));
            }
            if again != verdict {
                return Err(format!(
                    "{position}: a checkpoint after {saved_after} leads to {again:?}"
                ));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn verdicts_are_the_oracles(steps in steps(), saved_after in any::<prop::sample::Index>()) {
        disagreement(&steps, saved_after).map_err(TestCaseError::fail)?;
    }
}
