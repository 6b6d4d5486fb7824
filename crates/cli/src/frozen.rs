//! Several nodes at one CSN.
//!
//! Every node is held where it is, then let go on to the highest CSN among them, where a snapshot is exported; then it
//! goes on. (`pg/hold.rs` of the extension is the other half.) What is read in the snapshots is the state after the same
//! commit on all of them, however much is written meanwhile.

use std::thread;

use crate::failure::Failure;
use crate::group::Member;
use crate::session::Session;

/// A node at the CSN.
pub struct Frozen {
    /// Its name.
    pub name: String,
    /// Reads the snapshot.
    pub reader: Session,
    /// Keeps the snapshot, and the hold if it was kept, until its transaction ends.
    pub control: Session,
}

/// What came of it.
pub struct Freeze {
    /// The CSN.
    pub csn: i64,
    /// Nodes that are there.
    pub nodes: Vec<Frozen>,
    /// Nodes that are not, and why.
    pub absent: Vec<(String, Failure)>,
}

/// A node that stands still somewhere.
struct Held {
    node: Frozen,
    csn: i64,
}

/// Freeze these members; `keep`: the one whose hold goes on until its control session ends its transaction.
pub fn freeze(members: &[&Member], pause: u32, keep: Option<&str>, purpose: &str) -> Freeze {
    let mut absent = Vec::new();
    let ready = at_once(members.iter().copied(), &mut absent, |member| {
        let connect = || member.target.connect(purpose);
        connect().and_then(|reader| {
            Ok(Frozen {
                name: member.name.clone(),
                reader,
                control: connect()?,
            })
        })
    });
    let held = at_once(ready.into_iter(), &mut absent, |mut node| {
        hold(&mut node.control, pause).map(|csn| Held { node, csn })
    });
    let csn = held.iter().map(|held| held.csn).max().unwrap_or_default();
    let nodes = at_once(held.into_iter(), &mut absent, |mut held| {
        let kept = keep == Some(held.node.name.as_str());
        enter(&mut held.node, csn, kept).map(|()| held.node)
    });
    Freeze { csn, nodes, absent }
}

fn hold(control: &mut Session, pause: u32) -> Result<i64, Failure> {
    control.execute("BEGIN")?;
    let csn = control.value("SELECT synod._hold($1)", &[Some(&pause.to_string())])?;
    Ok(csn.and_then(|csn| csn.parse().ok()).unwrap_or_default())
}

fn enter(node: &mut Frozen, csn: i64, kept: bool) -> Result<(), Failure> {
    let at = csn.to_string();
    node.control.rows("SELECT synod._advance($1)", &[Some(&at)])?;
    let snapshot = node
        .control
        .value("SELECT synod._snapshot_at($1)", &[Some(&at)])?
        .unwrap_or_default();
    if !kept {
        node.control.execute("SELECT synod._release()")?;
    }
    node.reader.execute(&format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
        snapshot.replace('\'', "")
    ))
}

trait Named {
    fn name(&self) -> String;
}

impl Named for &Member {
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Named for Frozen {
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Named for Held {
    fn name(&self) -> String {
        self.node.name.clone()
    }
}

/// One thread per node: none waits for another's answer. Those that fail become absent.
fn at_once<T: Named + Send, R: Send>(
    nodes: impl Iterator<Item = T>,
    absent: &mut Vec<(String, Failure)>,
    work: impl Fn(T) -> Result<R, Failure> + Sync,
) -> Vec<R> {
    let answers: Vec<(String, Result<R, Failure>)> = thread::scope(|scope| {
        let threads: Vec<_> = nodes
            .map(|node| {
                let (name, work) = (node.name(), &work);
                (name, scope.spawn(move || work(node)))
            })
            .collect();
        let lost = || Err(Failure::new("it could not be asked", "", ""));
        threads
            .into_iter()
            .map(|(name, thread)| (name, thread.join().unwrap_or_else(|_| lost())))
            .collect()
    });
    let mut good = Vec::new();
    for (name, answer) in answers {
        match answer {
            Ok(answer) => good.push(answer),
            Err(failure) => absent.push((name, failure)),
        }
    }
    good
}
