//! The bytes of a [`Value`] in a segment record, version 1.
//!
//! Position and ballot stand in the record's header, not here. All integers are little-endian. Decoding checks every
//! bound and takes any bytes without a panic; a command's payload is a slice of the input, not a copy.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Command, LogId, Member, Membership, NodeId, ProposalId, Value};

const NOOP: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The fewest bytes a member can take: what bounds the count that a hostile length may announce.
const MEMBER_MIN_BYTES: usize = 4 + 16 + 1 + 4;

/// Append `value` to `into`.
pub(crate) fn encode(value: &Value, into: &mut BytesMut) {
    match value {
        Value::Noop => into.put_u8(NOOP),
        Value::Command(Command { id, payload }) => {
            into.put_u8(COMMAND);
            into.put_u32_le(id.node.0);
            into.put_u64_le(id.incarnation);
            into.put_u64_le(id.sequence);
            into.put_slice(payload);
        }
        Value::Membership(membership) => {
            into.put_u8(MEMBERSHIP);
            encode_membership(membership, into);
        }
    }
}

/// How many bytes [`encode`] appends.
pub(crate) fn encoded_length(value: &Value) -> usize {
    match value {
        Value::Noop => 1,
        Value::Command(command) => 1 + 4 + 8 + 8 + command.payload.len(),
        Value::Membership(membership) => {
            let members = membership
                .members
                .iter()
                .map(|member| MEMBER_MIN_BYTES + member.info.len());
            1 + 8 + 4 + 4 + members.sum::<usize>()
        }
    }
}

/// The value in `bytes`, or `None` if they are not one.
pub(crate) fn decode(mut bytes: Bytes) -> Option<Value> {
    match take_u8(&mut bytes)? {
        NOOP => bytes.is_empty().then_some(Value::Noop),
        COMMAND => {
            let node = NodeId(take_u32(&mut bytes)?);
            let id = ProposalId {
                node,
                incarnation: take_u64(&mut bytes)?,
                sequence: take_u64(&mut bytes)?,
            };
            Some(Value::Command(Command { id, payload: bytes }))
        }
        MEMBERSHIP => decode_membership(bytes).map(Value::Membership),
        _ => None,
    }
}

/// Append `membership` to `into`.
pub(crate) fn encode_membership(membership: &Membership, into: &mut BytesMut) {
    into.put_u64_le(membership.version);
    into.put_u32_le(membership.next_id);
    into.put_u32_le(membership.members.len() as u32);
    for member in &membership.members {
        into.put_u32_le(member.id.0);
        into.put_slice(&member.log.0);
        into.put_u8(u8::from(member.voter));
        into.put_u32_le(member.info.len() as u32);
        into.put_slice(&member.info);
    }
}

/// The membership in `bytes`, or `None` if they are not exactly one.
pub(crate) fn decode_membership(mut bytes: Bytes) -> Option<Membership> {
    let version = take_u64(&mut bytes)?;
    let next_id = take_u32(&mut bytes)?;
    let count = take_u32(&mut bytes)? as usize;
    if count > bytes.len() / MEMBER_MIN_BYTES {
        return None;
    }
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let id = NodeId(take_u32(&mut bytes)?);
        let log = LogId(take(&mut bytes, 16)?.as_ref().try_into().ok()?);
        let voter = match take_u8(&mut bytes)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let length = take_u32(&mut bytes)? as usize;
        let info = take(&mut bytes, length)?;
        members.push(Member { id, log, voter, info });
    }
    bytes.is_empty().then_some(Membership {
        version,
        next_id,
        members,
    })
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

fn take_u8(bytes: &mut Bytes) -> Option<u8> {
    (!bytes.is_empty()).then(|| bytes.get_u8())
}

fn take_u32(bytes: &mut Bytes) -> Option<u32> {
    (bytes.len() >= 4).then(|| bytes.get_u32_le())
}

fn take_u64(bytes: &mut Bytes) -> Option<u64> {
    (bytes.len() >= 8).then(|| bytes.get_u64_le())
}
