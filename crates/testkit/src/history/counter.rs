//! Strong reads and writes of counters, judged strictly.
//!
//! A write adds one and returns the new value, so the values of a key are its versions in order and linearizability
//! reduces to comparing numbers. For operations of one key, A before B meaning that A returned before B began:
//! - a read B after A (read or write): `value(B) >= value(A)`: never stale, and reads do not go back;
//! - a write B after A: `value(B) > value(A)`;
//! - two writes never return the same value: no write is lost;
//! - a read does not return more than the writes that began before it returned can account for.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::time::Instant;

/// One finished operation. A write whose outcome stayed unknown is not recorded as one but in
/// [`History::write_in_doubt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which counter.
    pub key: i32,
    /// The value read, or the new value.
    pub value: i64,
    /// Whether this is a write.
    pub write: bool,
    /// When the client sent it.
    pub start: Instant,
    /// When the client had the answer.
    pub end: Instant,
}

/// All operations of all clients.
#[derive(Debug, Default)]
pub struct History {
    operations: Mutex<Vec<Operation>>,
    in_doubt: Mutex<Vec<(i32, Instant)>>,
}

impl History {
    /// Records a finished operation.
    pub fn record(&self, operation: Operation) {
        assert!(operation.start <= operation.end, "{operation:?} ends before it starts");
        self.operations.lock().expect("no recorder panics").push(operation);
    }

    /// Records a write of `key` begun at `start` that may or may not have happened.
    pub fn write_in_doubt(&self, key: i32, start: Instant) {
        self.in_doubt.lock().expect("no recorder panics").push((key, start));
    }

    /// Number of recorded operations.
    pub fn len(&self) -> usize {
        self.operations.lock().expect("no recorder panics").len()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first violation, in words.
    ///
    /// # Errors
    /// When there is one.
    pub fn check(&self) -> Result<(), String> {
        let mut keys: BTreeMap<i32, Vec<Operation>> = BTreeMap::new();
        for operation in self.operations.lock().expect("no recorder panics").iter() {
            keys.entry(operation.key).or_default().push(*operation);
        }
        let in_doubt = self.in_doubt.lock().expect("no recorder panics").clone();
        keys.iter().try_for_each(|(key, operations)| {
            let doubts: Vec<Instant> = in_doubt
                .iter()
                .filter(|(other, _)| other == key)
                .map(|(_, start)| *start)
                .collect();
            check_key(operations, &doubts)
        })
    }
}

fn check_key(operations: &[Operation], doubts: &[Instant]) -> Result<(), String> {
    let mut written = HashSet::new();
    for write in operations.iter().filter(|operation| operation.write) {
        if !written.insert(write.value) {
            return Err(format!("two writes returned the same value: {write:?}"));
        }
    }
    check_order(operations)?;
    check_origin(operations, doubts)
}

/// Sweeps over starts in time order, carrying the greatest value of what has ended before.
fn check_order(operations: &[Operation]) -> Result<(), String> {
    let mut by_start: Vec<&Operation> = operations.iter().collect();
    by_start.sort_by_key(|operation| operation.start);
    let mut by_end = by_start.clone();
    by_end.sort_by_key(|operation| operation.end);
    let mut ended = by_end.into_iter().peekable();
    let mut greatest: Option<&Operation> = None;
    for operation in by_start {
        while let Some(before) = ended.next_if(|before| before.end < operation.start) {
            if greatest.is_none_or(|seen| before.value > seen.value) {
                greatest = Some(before);
            }
        }
        let Some(seen) = greatest else { continue };
        if operation.value < seen.value || (operation.write && operation.value == seen.value) {
            return Err(format!("went back: {operation:?} after {seen:?}"));
        }
    }
    Ok(())
}

/// A value `v` needs `v` writes that began before it was seen (counters begin at 0).
fn check_origin(operations: &[Operation], doubts: &[Instant]) -> Result<(), String> {
    let mut begun: Vec<Instant> = operations
        .iter()
        .filter(|operation| operation.write)
        .map(|write| write.start)
        .collect();
    begun.extend(doubts);
    begun.sort();
    for operation in operations {
        let possible = begun.partition_point(|start| *start <= operation.end);
        if operation.value > i64::try_from(possible).unwrap_or(i64::MAX) {
            return Err(format!(
                "out of nothing: {operation:?}, but only {possible} writes had begun"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// `(write, value, start, end)` in milliseconds.
    fn judge(operations: &[(bool, i64, u64, u64)]) -> Result<(), String> {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let history = History::default();
        for (write, value, start, end) in operations {
            history.record(Operation {
                key: 1,
                value: *value,
                write: *write,
                start: at(*start),
                end: at(*end),
            });
        }
        history.check()
    }

    #[test]
    fn accepts_overlapping_operations_in_either_order() {
        judge(&[
            (true, 1, 0, 10),
            (false, 0, 5, 8),
            (false, 1, 5, 9),
            (true, 2, 11, 20),
            (false, 1, 12, 13),
        ])
        .unwrap();
    }

    #[test]
    fn catches_a_stale_read() {
        assert!(
            judge(&[(true, 1, 0, 10), (false, 0, 11, 12)])
                .unwrap_err()
                .contains("went back")
        );
    }

    #[test]
    fn catches_reads_that_go_back() {
        assert!(
            judge(&[(true, 1, 0, 100), (false, 1, 10, 20), (false, 0, 30, 40)])
                .unwrap_err()
                .contains("went back")
        );
    }

    #[test]
    fn catches_a_lost_update() {
        assert!(
            judge(&[(true, 1, 0, 10), (true, 1, 5, 15)])
                .unwrap_err()
                .contains("same value")
        );
    }

    #[test]
    fn catches_a_value_out_of_nothing() {
        assert!(
            judge(&[(true, 1, 0, 10), (false, 2, 5, 15)])
                .unwrap_err()
                .contains("out of nothing")
        );
    }
}
