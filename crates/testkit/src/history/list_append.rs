//! Histories of transactions that append unique elements to lists and read whole lists back.
//!
//! Two independent judges: `adya` searches the dependency graph for the anomalies that an isolation level forbids, and
//! [`History::check_final`] compares what clients were told with the lists as they finally are on a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use adya::{Opts, Valid, Workload};

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Append `value` to the list `key`.
    Append {
        /// Which list.
        key: i32,
        /// Unique in the whole history.
        value: i32,
    },
    /// Read the list `key`; nothing is known of the result before it has come.
    Read {
        /// Which list.
        key: i32,
        /// What came.
        result: Option<Vec<i32>>,
    },
}

/// How a transaction ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Committed.
    Committed,
    /// Rolled back.
    RolledBack,
    /// Never found out.
    Unknown,
}

#[derive(Debug)]
struct Event {
    process: i64,
    end: Option<End>,
    steps: Vec<Step>,
}

/// All transactions of all clients, in the order in which clients began and ended them.
#[derive(Debug, Default)]
pub struct History {
    events: Mutex<Vec<Event>>,
    processes: AtomicI64,
}

impl History {
    /// A process number for a client. A client whose transaction stayed unknown needs a new one: that transaction may
    /// still take effect at any later time.
    pub fn new_process(&self) -> i64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// A client is about to send `steps`.
    pub fn begin(&self, process: i64, steps: &[Step]) {
        self.push(Event {
            process,
            end: None,
            steps: steps.to_vec(),
        });
    }

    /// The client has its answer.
    pub fn end(&self, process: i64, end: End, steps: &[Step]) {
        self.push(Event {
            process,
            end: Some(end),
            steps: steps.to_vec(),
        });
    }

    fn push(&self, event: Event) {
        self.events.lock().expect("no recorder panics").push(event);
    }

    /// Number of transactions with the given end.
    pub fn count(&self, end: End) -> usize {
        self.events
            .lock()
            .expect("no recorder panics")
            .iter()
            .filter(|event| event.end == Some(end))
            .count()
    }

    /// Asks `adya` whether the history keeps to `model`, such as `strong-snapshot-isolation`.
    ///
    /// # Errors
    /// The anomalies found, in words.
    pub fn check_model(&self, model: &str) -> Result<(), String> {
        let history = adya::History::from_json(&self.to_json()).map_err(|error| error.to_string())?;
        let options = Opts {
            models: vec![model.into()],
            ..Opts::default()
        };
        let report = adya::check(&history, Workload::ListAppend, &options);
        match report.valid {
            Valid::True => Ok(()),
            Valid::False | Valid::Unknown => {
                let mut text = format!("{model}: {:?} {:?}", report.valid, report.anomaly_types);
                for anomaly in report.anomalies.values().flatten().take(3) {
                    let _ = write!(text, "\n{}: {}", anomaly.kind, anomaly.explanation);
                }
                Err(text)
            }
        }
    }

    /// Compares with the lists as they are at the end: every committed append is there exactly once, no rolled back one
    /// is, and every list that a committed transaction read from the database is a prefix of the final one.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn check_final(&self, lists: &BTreeMap<i32, Vec<i32>>) -> Result<(), String> {
        for (key, list) in lists {
            let distinct: BTreeSet<_> = list.iter().collect();
            if distinct.len() != list.len() {
                return Err(format!("list {key} holds an element twice: {list:?}"));
            }
        }
        let has = |key: &i32, value: &i32| lists.get(key).is_some_and(|list| list.contains(value));
        for event in self.events.lock().expect("no recorder panics").iter() {
            for step in &event.steps {
                match (event.end, step) {
                    (Some(End::Committed), Step::Append { key, value }) if !has(key, value) => {
                        return Err(format!("the committed append of {value} to list {key} is lost"));
                    }
                    (Some(End::RolledBack), Step::Append { key, value }) if has(key, value) => {
                        return Err(format!("the rolled back append of {value} to list {key} is there"));
                    }
                    (
                        Some(End::Committed),
                        Step::Read {
                            key,
                            result: Some(result),
                        },
                    ) => {
                        let list = lists.get(key).map_or(&[][..], Vec::as_slice);
                        if !list.starts_with(result) {
                            return Err(format!(
                                "list {key} was read as {result:?}, which does not begin {list:?}"
                            ));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// One operation per line, as Jepsen's tools read them.
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        for (index, event) in self.events.lock().expect("no recorder panics").iter().enumerate() {
            let kind = match event.end {
                None => "invoke",
                Some(End::Committed) => "ok",
                Some(End::RolledBack) => "fail",
                Some(End::Unknown) => "info",
            };
            let steps: Vec<String> = event.steps.iter().map(|step| step_json(step, event.end)).collect();
            let _ = writeln!(
                text,
                r#"{{"index":{index},"type":"{kind}","f":"txn","process":{},"value":[{}]}}"#,
                event.process,
                steps.join(",")
            );
        }
        text
    }
}

fn step_json(step: &Step, end: Option<End>) -> String {
    match step {
        Step::Append { key, value } => format!(r#"["append",{key},{value}]"#),
        // A read's result counts only when the transaction committed.
        Step::Read {
            key,
            result: Some(result),
        } if end == Some(End::Committed) => {
            let elements: Vec<String> = result.iter().map(i32::to_string).collect();
            format!(r#"["r",{key},[{}]]"#, elements.join(","))
        }
        Step::Read { key, .. } => format!(r#"["r",{key},null]"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(key: i32, value: i32) -> Step {
        Step::Append { key, value }
    }

    fn read(key: i32, result: &[i32]) -> Step {
        Step::Read {
            key,
            result: Some(result.to_vec()),
        }
    }

    /// Transactions one after the other.
    fn serial(transactions: &[(End, Vec<Step>)]) -> History {
        let history = History::default();
        for (end, steps) in transactions {
            let process = history.new_process();
            history.begin(process, steps);
            history.end(process, *end, steps);
        }
        history
    }

    #[test]
    fn accepts_a_serial_history() {
        let history = serial(&[
            (End::Committed, vec![append(1, 1)]),
            (End::Committed, vec![read(1, &[1]), append(1, 2)]),
            (End::Unknown, vec![append(1, 3)]),
            (End::Committed, vec![read(1, &[1, 2, 3])]),
        ]);
        history.check_model("strong-snapshot-isolation").unwrap();
        history.check_final(&BTreeMap::from([(1, vec![1, 2, 3])])).unwrap();
    }

    #[test]
    fn adya_catches_a_stale_read() {
        let history = serial(&[
            (End::Committed, vec![append(1, 1)]),
            (End::Committed, vec![append(1, 2)]),
            (End::Committed, vec![read(1, &[1])]),
            (End::Committed, vec![read(1, &[1, 2])]),
        ]);
        assert!(history.check_model("strong-snapshot-isolation").is_err());
        history.check_model("snapshot-isolation").unwrap();
    }

    #[test]
    fn adya_catches_a_lost_update() {
        let history = History::default();
        let (a, b) = (vec![read(1, &[]), append(1, 1)], vec![read(1, &[]), append(1, 2)]);
        history.begin(0, &a);
        history.begin(1, &b);
        history.end(0, End::Committed, &a);
        history.end(1, End::Committed, &b);
        history.begin(2, &[Step::Read { key: 1, result: None }]);
        history.end(2, End::Committed, &[read(1, &[1, 2])]);
        assert!(history.check_model("snapshot-isolation").is_err());
    }

    #[test]
    fn the_final_lists_tell_what_is_lost_double_or_undead() {
        let history = serial(&[
            (End::Committed, vec![append(1, 1)]),
            (End::RolledBack, vec![append(1, 2)]),
        ]);
        let judge = |list: &[i32]| history.check_final(&BTreeMap::from([(1, list.to_vec())]));
        judge(&[1]).unwrap();
        assert!(judge(&[]).unwrap_err().contains("lost"));
        assert!(judge(&[1, 1]).unwrap_err().contains("twice"));
        assert!(judge(&[1, 2]).unwrap_err().contains("rolled back"));
    }
}
