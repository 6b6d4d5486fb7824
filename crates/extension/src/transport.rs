//! Messages between the members of a group, over ordinary PostgreSQL connections ([`synod_log::Transport`]).
//!
//! Out: one libpq connection to every other member (`peer`), in `CALL synod.link(...)`; a node dials in order to send.
//! In: what the peers' links put into this node's rings (`pg/ring.rs`). Everything runs on the log worker's main thread
//! and nothing blocks. The log worker waits on [`Links::descriptor`] (readable: call [`Links::drive`]), on its latch (set
//! when a ring has got bytes) and until the time that [`Links::drive`] returns, and calls [`Links::drive`] after every
//! round of the log. What the log sends leaves when it flushes, before it writes to the disk.
//! Two handles of the same [`Links`] exist: one inside the log, one in the log worker.

mod peer;
mod resolve;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use pgrx::{PgLogLevel, PgSqlErrorCode};
use synod_log::{Membership, NodeId, Transport};

pub use peer::LinkStatus;
use peer::Peer;
use resolve::Resolver;

use crate::errors::UserError;
use crate::identity::{Identity, MemberInfo};
use crate::pg::poller::Poller;
use crate::pg::ring::Consumer;

/// Token of the resolver's descriptor; nodes' ids are shorter.
const RESOLVER: u64 = u64::MAX;

/// All links of one node.
#[derive(Clone)]
pub struct Links(Rc<RefCell<Inner>>);

struct Inner {
    me: Identity,
    peers: BTreeMap<NodeId, Peer>,
    watched: BTreeMap<NodeId, (RawFd, bool)>,
    consumer: Consumer,
    /// Peers whose links out have come up, for [`Transport::linked`].
    linked: Vec<NodeId>,
    /// [`Consumer::activity`] when it was last looked at.
    activity: u64,
    poller: Poller,
    resolver: Resolver,
    /// When it was last driven.
    now: Duration,
}

impl Links {
    /// Become the reader of the rings of the node with this index in shared memory. No peers yet:
    /// [`Transport::set_members`] names them.
    pub fn open(index: usize, me: Identity) -> Result<Self, UserError> {
        let consumer = Consumer::attach(index, me.database).ok_or_else(crate::errors::not_preloaded)?;
        let system = |error: std::io::Error| {
            UserError::new(
                PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
                "could not set up the links of this node",
                format!("{error}."),
                "",
            )
        };
        let poller = Poller::new().map_err(system)?;
        let resolver = Resolver::new().map_err(system)?;
        poller.watch(resolver.descriptor(), RESOLVER, false).map_err(system)?;
        let inner = Inner {
            me,
            peers: BTreeMap::new(),
            watched: BTreeMap::new(),
            consumer,
            linked: Vec::new(),
            activity: 0,
            poller,
            resolver,
            now: Duration::ZERO,
        };
        Ok(Self(Rc::new(RefCell::new(inner))))
    }

    /// Readable when [`Self::drive`] has something to do. Stays the same.
    pub fn descriptor(&self) -> RawFd {
        self.0.borrow().poller.descriptor()
    }

    /// Dial, greet, send what is queued. `ready`: the descriptor was found readable. Returns when to call again at the
    /// latest.
    pub fn drive(&self, now: Duration, ready: bool) -> Duration {
        self.0.borrow_mut().drive(now, ready)
    }

    /// A member says that this node was removed from the group: it misses the record that says so, because nobody sends to
    /// it any more.
    pub fn expelled(&self) -> bool {
        self.0.borrow().peers.values().any(Peer::has_expelled_us)
    }

    /// Health of the links out.
    pub fn status(&self) -> Vec<LinkStatus> {
        self.0.borrow().peers.values().map(Peer::status).collect()
    }

    /// Peers whose links in stand.
    pub fn linked(&self) -> Vec<NodeId> {
        self.0.borrow().consumer.linked()
    }
}

impl Inner {
    fn drive(&mut self, now: Duration, ready: bool) -> Duration {
        self.now = now;
        // PostgreSQL 15 does not look at descriptors while the latch is set, as it always is under load.
        let dialling = self.peers.values().any(|peer| !peer.is_up());
        let ready = if ready || dialling {
            self.poller.ready()
        } else {
            Vec::new()
        };
        let resolved = ready.iter().any(|one| one.token == RESOLVER);
        if resolved {
            self.resolver.clear();
        }
        self.hurry(now);
        let mut deadline = Duration::MAX;
        for (id, peer) in &mut self.peers {
            let ready = resolved || ready.iter().any(|one| one.token == u64::from(id.0));
            if peer.drive(&self.me, &self.resolver, now, ready) {
                tell(&self.me, peer);
                self.linked.extend(peer.is_up().then_some(*id));
            }
            deadline = deadline.min(peer.deadline());
        }
        self.watch();
        deadline
    }

    /// A peer that has just linked to us can be reached: do not wait out the pause after earlier failures.
    fn hurry(&mut self, now: Duration) {
        let activity = self.consumer.activity();
        if std::mem::replace(&mut self.activity, activity) != activity {
            for id in self.consumer.linked() {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.hurry(now);
                }
            }
        }
    }

    fn watch(&mut self) {
        for (id, peer) in &self.peers {
            let interest = peer.interest();
            // While it connects libpq may put another socket in the place of the one that is watched.
            if let Some((socket, write)) = interest
                && (interest != self.watched.get(id).copied() || !peer.is_up())
                && let Err(error) = self.poller.watch(socket, u64::from(id.0), write)
            {
                pgrx::warning!("could not wait for the link to node {}: {error}", id.0);
            }
            match interest {
                Some(interest) => self.watched.insert(*id, interest),
                None => self.watched.remove(id),
            };
        }
    }
}

fn tell(me: &Identity, peer: &Peer) {
    let status = peer.status();
    let to = &peer.info().name;
    if status.up {
        pgrx::log!("synod: node \"{}\" is linked to node \"{to}\"", me.name);
    } else {
        UserError::new(
            PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            format!("synod: node \"{}\" has no link to node \"{to}\"", me.name),
            status.error,
            "",
        )
        .report(PgLogLevel::LOG);
    }
}

impl Transport for Links {
    fn set_members(&mut self, membership: &Membership) {
        let inner = &mut *self.0.borrow_mut();
        let me = inner.me.node;
        let own = membership.members.iter().find(|member| member.id == me);
        if let Some(info) = own.and_then(|member| MemberInfo::decode(&member.info)) {
            inner.me.follow(&info);
        }
        let others: Vec<_> = membership.members.iter().filter(|member| member.id != me).collect();
        inner.peers.retain(|id, _| others.iter().any(|member| member.id == *id));
        inner.watched.retain(|id, _| inner.peers.contains_key(id));
        for member in &others {
            let Some(info) = MemberInfo::decode(&member.info) else {
                pgrx::warning!("synod: cannot read how to reach node {}", member.id.0);
                continue;
            };
            if inner.peers.get(&member.id).is_none_or(|peer| *peer.info() != info) {
                inner.peers.insert(member.id, Peer::new(member.id, info));
            }
        }
        let expected: Vec<_> = others.iter().map(|member| member.id).collect();
        inner.consumer.set_peers(&expected, membership.next_id);
    }

    fn send(&mut self, to: NodeId, message: Bytes) {
        if let Some(peer) = self.0.borrow_mut().peers.get_mut(&to) {
            peer.send(message);
        }
    }

    fn flush(&mut self) {
        let Inner {
            me,
            peers,
            resolver,
            now,
            ..
        } = &mut *self.0.borrow_mut();
        // What is queued is for links that stand: none comes up here.
        for peer in peers.values_mut().filter(|peer| peer.has_queued()) {
            if peer.drive(me, resolver, *now, false) {
                tell(me, peer);
            }
        }
    }

    fn linked(&mut self, into: &mut Vec<NodeId>) {
        into.append(&mut self.0.borrow_mut().linked);
    }

    fn receive(&mut self, into: &mut Vec<(NodeId, Bytes)>) {
        self.0
            .borrow_mut()
            .consumer
            .receive(|from, frame| into.push((from, Bytes::from(frame))));
    }
}
