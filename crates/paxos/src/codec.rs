//! Bytes of values and entries, shared by messages and durable records.
//!
//! Little endian, fixed width. Decoding takes any bytes: it checks each length against what is left before it allocates,
//! and returns an error, never a panic. The frames around it (messages here, records in the segment files) carry the
//! checksum and the version.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::{MAX_INFO_BYTES, MAX_MEMBERS, MAX_PAYLOAD_BYTES, MAX_POSITION, MAX_REASON_BYTES};
use crate::types::{Ballot, Command, Entry, LogId, Member, Membership, NodeId, Position, ProposalId, Value};

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early, or a length inside points beyond their end.
    #[error("truncated")]
    Truncated,
    /// More bytes than the content needs.
    #[error("trailing bytes")]
    Trailing,
    /// Not one of ours.
    #[error("bad magic")]
    Magic,
    /// From a later version.
    #[error("unknown format version {0}")]
    Version(u8),
    /// Damaged on the way.
    #[error("checksum mismatch")]
    Checksum,
    /// A tag that no version has written.
    #[error("unknown tag {0}")]
    Tag(u8),
    /// A part is longer, or a number higher, than anybody writes.
    #[error("{0} beyond the limit")]
    Limit(&'static str),
    /// A text that is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
}

type Result<T> = std::result::Result<T, DecodeError>;

pub(crate) fn get_u8(input: &mut Bytes) -> Result<u8> {
    input.try_get_u8().map_err(|_| DecodeError::Truncated)
}

pub(crate) fn get_u32(input: &mut Bytes) -> Result<u32> {
    input.try_get_u32_le().map_err(|_| DecodeError::Truncated)
}

pub(crate) fn get_u64(input: &mut Bytes) -> Result<u64> {
    input.try_get_u64_le().map_err(|_| DecodeError::Truncated)
}

pub(crate) fn get_bool(input: &mut Bytes) -> Result<bool> {
    match get_u8(input)? {
        0 => Ok(false),
        1 => Ok(true),
        tag => Err(DecodeError::Tag(tag)),
    }
}

pub(crate) fn get_bytes(input: &mut Bytes) -> Result<Bytes> {
    let length = get_u32(input)? as usize;
    if length > input.len() {
        return Err(DecodeError::Truncated);
    }
    // Shares the allocation of the input: payloads are not copied.
    Ok(input.split_to(length))
}

/// Bytes of which there are at most `most`.
fn get_bounded(input: &mut Bytes, what: &'static str, most: usize) -> Result<Bytes> {
    let bytes = get_bytes(input)?;
    if bytes.len() > most {
        return Err(DecodeError::Limit(what));
    }
    Ok(bytes)
}

pub(crate) fn get_info(input: &mut Bytes) -> Result<Bytes> {
    get_bounded(input, "description of a member", MAX_INFO_BYTES)
}

/// The place of an entry, or a mark in the log.
pub(crate) fn get_position(input: &mut Bytes) -> Result<Position> {
    let position = get_u64(input)?;
    if position > MAX_POSITION {
        return Err(DecodeError::Limit("position"));
    }
    Ok(position)
}

pub(crate) fn get_text(input: &mut Bytes) -> Result<String> {
    String::from_utf8(get_bounded(input, "text", MAX_REASON_BYTES)?.to_vec()).map_err(|_| DecodeError::Text)
}

/// A count of things that take at least `least` bytes each.
pub(crate) fn get_count(input: &mut Bytes, least: usize) -> Result<usize> {
    let count = get_u32(input)? as usize;
    if count.saturating_mul(least) > input.len() {
        return Err(DecodeError::Truncated);
    }
    Ok(count)
}

pub(crate) fn get_log(input: &mut Bytes) -> Result<LogId> {
    let mut id = [0; 16];
    input.try_copy_to_slice(&mut id).map_err(|_| DecodeError::Truncated)?;
    Ok(LogId(id))
}

pub(crate) fn get_ballot(input: &mut Bytes) -> Result<Ballot> {
    Ok(Ballot {
        round: get_u64(input)?,
        node: NodeId(get_u32(input)?),
    })
}

pub(crate) fn get_option<T>(input: &mut Bytes, get: impl FnOnce(&mut Bytes) -> Result<T>) -> Result<Option<T>> {
    Ok(if get_bool(input)? { Some(get(input)?) } else { None })
}

pub(crate) fn put_bytes(output: &mut BytesMut, bytes: &[u8]) {
    // Payloads are bounded by MAX_PAYLOAD_BYTES of the log far below 4 GB.
    output.put_u32_le(bytes.len() as u32);
    output.put_slice(bytes);
}

pub(crate) fn put_ballot(output: &mut BytesMut, ballot: Ballot) {
    output.put_u64_le(ballot.round);
    output.put_u32_le(ballot.node.0);
}

pub(crate) fn put_option<T>(output: &mut BytesMut, value: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
    output.put_u8(value.is_some().into());
    if let Some(value) = value {
        put(output, value);
    }
}

const COMMAND_LEAST_BYTES: usize = 4 + 8 + 8 + 4;
const ENTRY_LEAST_BYTES: usize = 8 + 12 + 1;
const MEMBER_LEAST_BYTES: usize = 4 + 16 + 1 + 4;

pub(crate) fn put_command(output: &mut BytesMut, command: &Command) {
    output.put_u32_le(command.id.node.0);
    output.put_u64_le(command.id.incarnation);
    output.put_u64_le(command.id.sequence);
    put_bytes(output, &command.payload);
}

pub(crate) fn get_command(input: &mut Bytes) -> Result<Command> {
    let id = ProposalId {
        node: NodeId(get_u32(input)?),
        incarnation: get_u64(input)?,
        sequence: get_u64(input)?,
    };
    Ok(Command {
        id,
        payload: get_bounded(input, "payload", MAX_PAYLOAD_BYTES)?,
    })
}

pub(crate) fn put_commands(output: &mut BytesMut, commands: &[Command]) {
    output.put_u32_le(commands.len() as u32);
    for command in commands {
        put_command(output, command);
    }
}

pub(crate) fn get_commands(input: &mut Bytes) -> Result<Vec<Command>> {
    let count = get_count(input, COMMAND_LEAST_BYTES)?;
    (0..count).map(|_| get_command(input)).collect()
}

/// Append a membership's bytes.
pub fn put_membership(output: &mut BytesMut, membership: &Membership) {
    output.put_u64_le(membership.version);
    output.put_u32_le(membership.next_id);
    output.put_u32_le(membership.members.len() as u32);
    for member in &membership.members {
        output.put_u32_le(member.id.0);
        output.put_slice(&member.log.0);
        output.put_u8(member.voter.into());
        put_bytes(output, &member.info);
    }
}

/// Take a membership's bytes off the front.
pub fn get_membership(input: &mut Bytes) -> Result<Membership> {
    let (version, next_id) = (get_u64(input)?, get_u32(input)?);
    let count = get_count(input, MEMBER_LEAST_BYTES)?;
    if count > MAX_MEMBERS {
        return Err(DecodeError::Limit("number of members"));
    }
    let members = (0..count)
        .map(|_| {
            Ok(Member {
                id: NodeId(get_u32(input)?),
                log: get_log(input)?,
                voter: get_bool(input)?,
                info: get_info(input)?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Membership {
        version,
        next_id,
        members,
    })
}

/// Append a value's bytes.
pub fn put_value(output: &mut BytesMut, value: &Value) {
    match value {
        Value::Noop => output.put_u8(0),
        Value::Command(command) => {
            output.put_u8(1);
            put_command(output, command);
        }
        Value::Membership(membership) => {
            output.put_u8(2);
            put_membership(output, membership);
        }
    }
}

/// Take a value's bytes off the front.
pub fn get_value(input: &mut Bytes) -> Result<Value> {
    match get_u8(input)? {
        0 => Ok(Value::Noop),
        1 => Ok(Value::Command(get_command(input)?)),
        2 => Ok(Value::Membership(get_membership(input)?)),
        tag => Err(DecodeError::Tag(tag)),
    }
}

/// Append an entry's bytes.
pub fn put_entry(output: &mut BytesMut, entry: &Entry) {
    output.put_u64_le(entry.position);
    put_ballot(output, entry.ballot);
    put_value(output, &entry.value);
}

/// Take an entry's bytes off the front.
pub fn get_entry(input: &mut Bytes) -> Result<Entry> {
    Ok(Entry {
        position: get_position(input)?,
        ballot: get_ballot(input)?,
        value: get_value(input)?,
    })
}

pub(crate) fn put_entries(output: &mut BytesMut, entries: &[Entry]) {
    output.put_u32_le(entries.len() as u32);
    for entry in entries {
        put_entry(output, entry);
    }
}

pub(crate) fn get_entries(input: &mut Bytes) -> Result<Vec<Entry>> {
    let count = get_count(input, ENTRY_LEAST_BYTES)?;
    (0..count).map(|_| get_entry(input)).collect()
}

/// Bytes that a command takes.
pub(crate) fn command_bytes(command: &Command) -> usize {
    COMMAND_LEAST_BYTES + command.payload.len()
}

/// Bytes that a value takes, for windows and chunks.
pub(crate) fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Noop => 1,
        Value::Command(command) => 1 + command_bytes(command),
        Value::Membership(membership) => {
            17 + membership
                .members
                .iter()
                .map(|member| MEMBER_LEAST_BYTES + member.info.len())
                .sum::<usize>()
        }
    }
}

/// Bytes that an entry takes.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_LEAST_BYTES - 1 + value_bytes(&entry.value)
}
