//! The group's members, as backends see them in shared memory, and requests to change them.
//!
//! The log is the authority. The log worker publishes the membership as of the last chosen membership record; backends read it, and ask
//! for changes through the node's one request slot (guarded by the `meta` lock; one at a time).

use std::sync::atomic::Ordering;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use synod_log::{LogId, Member, Membership, MembershipChange, NodeId};

use crate::pg::latch;
use crate::pg::shmem::{NodeLock, NodeShared};

/// States of [`NodeShared::request_state`].
pub mod request {
    /// Nobody asks.
    pub const NONE: u32 = 0;
    /// A change waits for the log worker.
    pub const ASKED: u32 = 1;
    /// The log worker has passed it to the log.
    pub const TAKEN: u32 = 2;
    /// Chosen.
    pub const DONE: u32 = 3;
    /// Refused; the reason is in the request bytes.
    pub const REFUSED: u32 = 4;
}

/// Publish a membership for backends.
pub fn publish(node: &NodeShared, membership: &Membership) {
    let mut bytes = BytesMut::new();
    synod_log::put_membership(&mut bytes, membership);
    if !node.set_membership_bytes(&bytes) {
        pgrx::warning!("the membership of the group is too large to be shown");
    }
}

/// The members as last published; empty before the log worker runs.
pub fn read(node: &NodeShared) -> Membership {
    let mut bytes = Bytes::from(node.membership_bytes());
    synod_log::get_membership(&mut bytes).unwrap_or_default()
}

/// Ask the log worker for a change. False: another request is under way.
pub fn ask(node: &NodeShared, change: &MembershipChange) -> bool {
    let bytes = encode_change(change);
    if bytes.len() > crate::pg::shmem::REQUEST_BYTES {
        return false;
    }
    {
        let _lock = node.lock(NodeLock::Meta, true);
        if node.request_state.load(Ordering::Relaxed) != request::NONE {
            return false;
        }
        node.write_request(&bytes);
        node.requester.store(latch::my_number(), Ordering::Relaxed);
        node.request_state.store(request::ASKED, Ordering::Release);
    }
    node.wake_log_worker();
    true
}

/// The answer to [`ask`], once there is one. Frees the request slot.
pub fn poll_answer(node: &NodeShared) -> Option<Result<(), String>> {
    let _lock = node.lock(NodeLock::Meta, true);
    let answer = match node.request_state.load(Ordering::Acquire) {
        request::DONE => Ok(()),
        request::REFUSED => Err(String::from_utf8_lossy(&node.read_request()).into_owned()),
        _ => return None,
    };
    node.request_state.store(request::NONE, Ordering::Release);
    Some(answer)
}

/// Give up waiting for an answer (the change may still happen).
pub fn abandon(node: &NodeShared) {
    let _lock = node.lock(NodeLock::Meta, true);
    node.request_state.store(request::NONE, Ordering::Release);
}

/// The log worker takes a waiting request.
pub fn take_request(node: &NodeShared) -> Option<Result<MembershipChange, String>> {
    if node.request_state.load(Ordering::Acquire) != request::ASKED {
        return None;
    }
    let _lock = node.lock(NodeLock::Meta, true);
    if node.request_state.load(Ordering::Acquire) != request::ASKED {
        return None;
    }
    node.request_state.store(request::TAKEN, Ordering::Release);
    Some(decode_change(node.read_request().into()).ok_or_else(|| "the request cannot be read".to_owned()))
}

/// The log worker answers.
pub fn answer_request(node: &NodeShared, outcome: Result<(), String>) {
    let _lock = node.lock(NodeLock::Meta, true);
    if node.request_state.load(Ordering::Acquire) != request::TAKEN {
        return;
    }
    let state = match outcome {
        Ok(()) => request::DONE,
        Err(reason) => {
            let mut end = reason.len().min(crate::pg::shmem::REQUEST_BYTES);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            node.write_request(&reason.as_bytes()[..end]);
            request::REFUSED
        }
    };
    node.request_state.store(state, Ordering::Release);
    latch::wake(node.requester.load(Ordering::Relaxed));
}

fn encode_change(change: &MembershipChange) -> Vec<u8> {
    let mut out = Vec::new();
    match change {
        MembershipChange::AddLearner { log, info } => {
            out.put_u8(1);
            out.put_slice(&log.0);
            out.put_slice(info);
        }
        MembershipChange::Promote(id) => {
            out.put_u8(2);
            out.put_u32(id.0);
        }
        MembershipChange::Remove(id) => {
            out.put_u8(3);
            out.put_u32(id.0);
        }
        MembershipChange::Describe(id, info) => {
            out.put_u8(4);
            out.put_u32(id.0);
            out.put_slice(info);
        }
    }
    out
}

fn decode_change(mut bytes: Bytes) -> Option<MembershipChange> {
    let kind = bytes.try_get_u8().ok()?;
    if kind == 1 {
        let mut log = [0; 16];
        bytes.try_copy_to_slice(&mut log).ok()?;
        return Some(MembershipChange::AddLearner {
            log: LogId(log),
            info: bytes,
        });
    }
    let id = NodeId(bytes.try_get_u32().ok()?);
    match kind {
        2 => Some(MembershipChange::Promote(id)),
        3 => Some(MembershipChange::Remove(id)),
        4 => Some(MembershipChange::Describe(id, bytes)),
        _ => None,
    }
}

/// A member and the highest position it is known to hold durably.
pub fn acknowledged(node: &NodeShared) -> Vec<(NodeId, u64)> {
    node.acknowledged
        .iter()
        .map(|pair| (NodeId(pair.0.load(Ordering::Relaxed)), pair.1.load(Ordering::Relaxed)))
        .take_while(|(id, _)| id.0 != 0)
        .collect()
}

/// Publish what the log knows of the other members' disks.
pub fn publish_acknowledged(node: &NodeShared, known: &[(NodeId, u64)]) {
    for (index, slot) in node.acknowledged.iter().enumerate() {
        let (id, position) = known.get(index).map_or((0, 0), |(id, position)| (id.0, *position));
        slot.1.store(position, Ordering::Relaxed);
        slot.0.store(id, Ordering::Relaxed);
    }
}

/// Who has this name, if anybody; `Member.info` is `identity`'s business.
pub fn find(membership: &Membership, mut matches: impl FnMut(&Member) -> bool) -> Option<&Member> {
    membership.members.iter().find(|member| matches(member))
}
