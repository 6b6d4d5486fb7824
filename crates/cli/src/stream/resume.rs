//! Where an earlier run ended, and which events it has delivered.
//!
//! Transactions of one server ascend by (commit LSN, CSN): what the apply worker runs together shares a commit. On several
//! nodes of a group only the CSN means the same. Within the transaction that was last delivered in part, its events come in the
//! same order again: everything up to and including the last one delivered is passed over.

use crate::failure::Failure;

/// How far an earlier run came, as the sink knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The commit of the last transaction of which something is there.
    pub lsn: u64,
    /// Its CSN, or 0.
    pub csn: u64,
    /// The last event that is there; `None`: all of the transaction is.
    pub last_id: Option<String>,
    /// The stream may begin here; at least as far as the slot was ever told.
    pub start_lsn: Option<u64>,
    /// Of which WAL that is a position.
    pub of: Option<Timeline>,
}

/// In which WAL positions mean something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The system identifier.
    pub system: String,
    /// The timeline; 0: not known, as it is a standby's, which may become another one.
    pub number: u32,
}

impl Resume {
    /// All records of the group up to this one are there.
    pub fn whole_csn(&self) -> u64 {
        self.csn.saturating_sub(u64::from(self.last_id.is_some()))
    }

    /// All records of the group up to this CSN are delivered, with the snapshot, or were not wanted: the sink may not know.
    pub fn at_least(self, csn: u64) -> Self {
        if csn <= self.csn {
            return self;
        }
        Self {
            csn,
            last_id: None,
            ..self
        }
    }
}

/// Lets through what has not been delivered yet.
#[derive(Debug)]
pub struct Gate {
    resume: Resume,
    by_csn: bool,
    state: State,
    /// The transaction under way, and the last event of it that was let through, if one was.
    current: (u64, u64),
    passed: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// What comes is new.
    Open,
    /// The whole transaction has been delivered.
    Shut,
    /// Part of it has, the last event among that has not come yet.
    Waiting,
}

impl Gate {
    /// `by_csn`: several nodes of a group are read.
    pub fn new(resume: Option<Resume>, by_csn: bool) -> Self {
        Self {
            resume: resume.unwrap_or_default(),
            by_csn,
            state: State::Open,
            current: (0, 0),
            passed: String::new(),
        }
    }

    /// What has been let through: where another connection goes on, if all of that is durable.
    pub fn reached(&self) -> Resume {
        if self.passed.is_empty() {
            return self.resume.clone();
        }
        Resume {
            lsn: self.current.0,
            csn: self.current.1,
            last_id: Some(self.passed.clone()),
            ..Resume::default()
        }
    }

    /// All records of the group up to this one have been let through, or were not wanted; 0 without a group.
    pub fn whole_csn(&self) -> u64 {
        if self.by_csn { self.resume.whole_csn() } else { 0 }
    }

    /// A transaction begins. False: nothing of it is wanted.
    pub fn begin(&mut self, lsn: u64, csn: u64) -> bool {
        self.current = (lsn, csn);
        self.passed.clear();
        let last = &self.resume;
        let order = if self.by_csn {
            csn.cmp(&last.csn)
        } else {
            (lsn, csn).cmp(&(last.lsn, last.csn))
        };
        self.state = match order {
            std::cmp::Ordering::Less => State::Shut,
            std::cmp::Ordering::Equal if last.last_id.is_some() => State::Waiting,
            std::cmp::Ordering::Equal => State::Shut,
            std::cmp::Ordering::Greater => State::Open,
        };
        self.state != State::Shut
    }

    /// An event of it. True: it is to be delivered.
    pub fn admits(&mut self, id: &str) -> bool {
        if self.state == State::Waiting && self.resume.last_id.as_deref() == Some(id) {
            self.state = State::Open;
            id.clone_into(&mut self.passed);
            return false;
        }
        let open = self.state == State::Open;
        if open {
            id.clone_into(&mut self.passed);
        }
        open
    }

    /// The transaction has ended.
    pub fn commit(&mut self, lsn: u64, csn: u64) -> Result<(), Failure> {
        if self.state == State::Waiting {
            return Err(Failure::new(
                format!(
                    "event \"{}\", the last one that was delivered, is not in the stream",
                    self.resume.last_id.as_deref().unwrap_or_default()
                ),
                "Its transaction came without it, so what is missing of the transaction cannot be told.",
                "Give the options for tables and rows with which the stream was begun.",
            ));
        }
        self.passed.clear();
        if self.state == State::Open {
            self.resume = Resume {
                lsn,
                csn: csn.max(if self.by_csn { self.resume.csn } else { 0 }),
                ..Resume::default()
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(lsn: u64, csn: u64, last_id: Option<&str>, by_csn: bool) -> Gate {
        let resume = Resume {
            lsn,
            csn,
            last_id: last_id.map(str::to_owned),
            ..Resume::default()
        };
        Gate::new(Some(resume), by_csn)
    }

    #[test]
    fn of_a_transaction_delivered_in_part_the_rest_comes() {
        let mut gate = gate(20, 0, Some("20/2"), false);
        assert!(!gate.begin(10, 0));
        assert!(gate.commit(10, 0).is_ok());
        assert!(gate.begin(20, 0));
        assert_eq!(["20/1", "20/2", "20/3"].map(|id| gate.admits(id)), [false, false, true]);
        assert!(gate.commit(20, 0).is_ok());
        assert!(gate.begin(30, 0));
        assert!(gate.admits("30/1"));
    }

    #[test]
    fn a_whole_transaction_does_not_come_twice() {
        let mut gate = gate(20, 0, None, false);
        assert!(!gate.begin(20, 0));
        assert!(gate.begin(21, 0) && gate.admits("21/1"));
        assert!(gate.commit(21, 0).is_ok());
        assert!(!gate.begin(21, 0), "it has been delivered meanwhile");
    }

    #[test]
    fn records_that_share_a_commit_are_told_apart_by_csn() {
        let mut gate = gate(20, 7, Some("g/7/1"), false);
        assert!(!gate.begin(20, 6));
        assert!(gate.begin(20, 7) && !gate.admits("g/7/1") && gate.admits("g/7/2"));
        assert!(gate.commit(20, 7).is_ok());
        assert!(gate.begin(20, 8) && gate.admits("g/8/1"));
    }

    #[test]
    fn on_another_node_only_the_csn_counts() {
        let mut gate = gate(500, 7, None, true);
        assert!(!gate.begin(900, 7));
        assert!(gate.begin(30, 8) && gate.admits("g/8/1"));
        assert!(gate.commit(30, 8).is_ok());
        assert!(!gate.begin(1_000, 8));
        assert_eq!((gate.reached().csn, gate.whole_csn()), (8, 8));
        assert!(gate.begin(1_010, 9) && gate.admits("g/9/1"));
        assert_eq!((gate.reached().csn, gate.whole_csn()), (9, 8));
    }

    /// The other nodes' slots were made before it.
    #[test]
    fn what_the_snapshot_has_is_not_told_by_another_node() {
        let mut gate = Gate::new(Some(Resume::default().at_least(7)), true);
        assert!(!gate.begin(900, 7));
        assert!(gate.begin(910, 8));
        let part = Resume {
            csn: 8,
            last_id: Some("g/8/1".into()),
            ..Resume::default()
        };
        assert_eq!(part.clone().at_least(8), part);
        assert_eq!(part.at_least(9).last_id, None);
    }

    #[test]
    fn another_connection_goes_on_where_this_one_was_lost() {
        let mut first = gate(20, 0, None, false);
        assert!(first.begin(30, 0) && first.admits("30/1") && first.admits("30/2"));
        let mut second = Gate::new(Some(first.reached()), false);
        assert!(second.begin(30, 0));
        assert_eq!(
            ["30/1", "30/2", "30/3"].map(|id| second.admits(id)),
            [false, false, true]
        );
        assert_eq!(second.reached().last_id.as_deref(), Some("30/3"));
        assert!(second.commit(30, 0).is_ok());
        assert_eq!((second.reached().lsn, second.reached().last_id), (30, None));
    }

    #[test]
    fn an_event_that_does_not_come_again_is_no_reason_to_lose_others() {
        let mut gate = gate(20, 0, Some("20/9"), false);
        assert!(gate.begin(20, 0));
        assert!(!gate.admits("20/1"));
        assert!(gate.commit(20, 0).is_err());
    }
}
