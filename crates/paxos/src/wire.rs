//! Bytes of messages.
//!
//! `magic u16, version u8, kind u8, crc32c u32 of all that follows, log 16 bytes, session u64, fields`.
//! A message that does not check out is dropped by the host: the protocol lives with loss.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::api::MembershipChange;
use crate::codec::{self, DecodeError, entry_bytes};
use crate::message::{Body, Message};
use crate::types::NodeId;

const MAGIC: u16 = 0x5953;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;

type Result<T> = std::result::Result<T, DecodeError>;

impl Message {
    /// The message's bytes.
    pub fn encode(&self) -> Bytes {
        let mut output = BytesMut::with_capacity(self.size_hint());
        output.put_u16_le(MAGIC);
        output.put_u8(VERSION);
        output.put_u8(kind(&self.body));
        output.put_u32_le(0);
        output.put_slice(&self.log.0);
        output.put_u64_le(self.session);
        put_body(&mut output, &self.body);
        let crc = crc32c::crc32c_append(u32::from(output[3]), &output[HEADER_BYTES..]);
        output[4..8].copy_from_slice(&crc.to_le_bytes());
        output.freeze()
    }

    /// Read a message that takes up all of `input`. Payloads share its memory.
    pub fn decode(mut input: Bytes) -> Result<Message> {
        let input = &mut input;
        if input.len() < HEADER_BYTES {
            return Err(DecodeError::Truncated);
        }
        if input.get_u16_le() != MAGIC {
            return Err(DecodeError::Magic);
        }
        match input.get_u8() {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let kind = input.get_u8();
        if input.get_u32_le() != crc32c::crc32c_append(u32::from(kind), input) {
            return Err(DecodeError::Checksum);
        }
        let (log, session) = (codec::get_log(input)?, codec::get_u64(input)?);
        let body = get_body(kind, input)?;
        if input.is_empty() {
            Ok(Message { log, session, body })
        } else {
            Err(DecodeError::Trailing)
        }
    }

    fn size_hint(&self) -> usize {
        let entries = match &self.body {
            Body::Promise { entries, .. } | Body::Accept { entries, .. } | Body::Learn { entries, .. } => {
                entries.iter().map(entry_bytes).sum()
            }
            Body::Forward { commands } => commands.iter().map(|command| 32 + command.payload.len()).sum(),
            _ => 0,
        };
        128 + entries
    }
}

fn kind(body: &Body) -> u8 {
    match body {
        Body::PreVote { .. } => 1,
        Body::PreVoteReply { .. } => 2,
        Body::Prepare { .. } => 3,
        Body::Promise { .. } => 4,
        Body::Rejected { .. } => 5,
        Body::Accept { .. } => 6,
        Body::Accepted { .. } => 7,
        Body::Heartbeat { .. } => 8,
        Body::HeartbeatReply { .. } => 9,
        Body::Gap { .. } => 10,
        Body::Learn { .. } => 11,
        Body::Fetch { .. } => 12,
        Body::Trimmed { .. } => 13,
        Body::Forward { .. } => 14,
        Body::TailRequest { .. } => 15,
        Body::TailReply { .. } => 16,
        Body::Change { .. } => 17,
        Body::ChangeRefused { .. } => 18,
        Body::Fenced { .. } => 19,
        Body::TakeOver { .. } => 20,
    }
}

fn put_body(output: &mut BytesMut, body: &Body) {
    match body {
        Body::PreVote { ballot, chosen } | Body::TakeOver { ballot, chosen } => {
            codec::put_ballot(output, *ballot);
            output.put_u64_le(*chosen);
        }
        Body::PreVoteReply {
            ballot,
            granted,
            promised,
            chosen,
            leader,
        } => {
            codec::put_ballot(output, *ballot);
            output.put_u8((*granted).into());
            codec::put_ballot(output, *promised);
            output.put_u64_le(*chosen);
            codec::put_option(output, *leader, |output, leader| output.put_u32_le(leader.0));
        }
        Body::Prepare { ballot, chosen, from } => {
            codec::put_ballot(output, *ballot);
            output.put_u64_le(*chosen);
            output.put_u64_le(*from);
        }
        Body::Promise {
            ballot,
            from,
            entries,
            next,
            last,
        } => {
            codec::put_ballot(output, *ballot);
            output.put_u64_le(*from);
            codec::put_option(output, *next, BufMut::put_u64_le);
            output.put_u64_le(*last);
            codec::put_entries(output, entries);
        }
        Body::Rejected {
            ballot,
            promised,
            chosen,
        } => {
            codec::put_ballot(output, *ballot);
            codec::put_ballot(output, *promised);
            output.put_u64_le(*chosen);
        }
        Body::Accept {
            ballot,
            chosen,
            entries,
        } => {
            codec::put_ballot(output, *ballot);
            output.put_u64_le(*chosen);
            codec::put_entries(output, entries);
        }
        Body::Accepted { ballot, upto, last } => {
            codec::put_ballot(output, *ballot);
            output.put_u64_le(*upto);
            output.put_u64_le(*last);
        }
        Body::Heartbeat {
            ballot,
            round,
            chosen,
            sent,
            lease_ms,
        } => {
            codec::put_ballot(output, *ballot);
            for number in [round, chosen, sent, lease_ms] {
                output.put_u64_le(*number);
            }
        }
        Body::HeartbeatReply {
            ballot,
            round,
            received,
            upto,
            last,
            chosen,
            gap,
        } => {
            codec::put_ballot(output, *ballot);
            for number in [round, received, upto, last, chosen] {
                output.put_u64_le(*number);
            }
            output.put_u8((*gap).into());
        }
        Body::Gap { ballot, received } => {
            codec::put_ballot(output, *ballot);
            output.put_u64_le(*received);
        }
        Body::Learn { entries, chosen } => {
            output.put_u64_le(*chosen);
            codec::put_entries(output, entries);
        }
        Body::Fetch { from } => output.put_u64_le(*from),
        Body::Trimmed { below } => output.put_u64_le(*below),
        Body::Forward { commands } => codec::put_commands(output, commands),
        Body::TailRequest { token } => output.put_u64_le(*token),
        Body::TailReply {
            session,
            token,
            position,
        } => {
            output.put_u64_le(*session);
            output.put_u64_le(*token);
            codec::put_option(output, *position, BufMut::put_u64_le);
        }
        Body::Change { change } => put_change(output, change),
        Body::ChangeRefused { reason } => codec::put_bytes(output, reason.as_bytes()),
        Body::Fenced { log, reason } => {
            output.put_slice(&log.0);
            codec::put_bytes(output, reason.as_bytes());
        }
    }
}

fn get_body(kind: u8, input: &mut Bytes) -> Result<Body> {
    use codec::{get_ballot as ballot, get_bool, get_entries, get_option, get_u32, get_u64 as number};
    Ok(match kind {
        1 => Body::PreVote {
            ballot: ballot(input)?,
            chosen: number(input)?,
        },
        2 => Body::PreVoteReply {
            ballot: ballot(input)?,
            granted: get_bool(input)?,
            promised: ballot(input)?,
            chosen: number(input)?,
            leader: get_option(input, |input| get_u32(input).map(NodeId))?,
        },
        3 => Body::Prepare {
            ballot: ballot(input)?,
            chosen: number(input)?,
            from: number(input)?,
        },
        4 => {
            let (ballot, from) = (ballot(input)?, number(input)?);
            let (next, last) = (get_option(input, number)?, number(input)?);
            Body::Promise {
                ballot,
                from,
                entries: get_entries(input)?,
                next,
                last,
            }
        }
        5 => Body::Rejected {
            ballot: ballot(input)?,
            promised: ballot(input)?,
            chosen: number(input)?,
        },
        6 => Body::Accept {
            ballot: ballot(input)?,
            chosen: number(input)?,
            entries: get_entries(input)?,
        },
        7 => Body::Accepted {
            ballot: ballot(input)?,
            upto: number(input)?,
            last: number(input)?,
        },
        8 => Body::Heartbeat {
            ballot: ballot(input)?,
            round: number(input)?,
            chosen: number(input)?,
            sent: number(input)?,
            lease_ms: number(input)?,
        },
        9 => Body::HeartbeatReply {
            ballot: ballot(input)?,
            round: number(input)?,
            received: number(input)?,
            upto: number(input)?,
            last: number(input)?,
            chosen: number(input)?,
            gap: get_bool(input)?,
        },
        10 => Body::Gap {
            ballot: ballot(input)?,
            received: number(input)?,
        },
        11 => {
            let chosen = number(input)?;
            Body::Learn {
                entries: get_entries(input)?,
                chosen,
            }
        }
        12 => Body::Fetch { from: number(input)? },
        13 => Body::Trimmed { below: number(input)? },
        14 => Body::Forward {
            commands: codec::get_commands(input)?,
        },
        15 => Body::TailRequest { token: number(input)? },
        16 => Body::TailReply {
            session: number(input)?,
            token: number(input)?,
            position: get_option(input, number)?,
        },
        17 => Body::Change {
            change: get_change(input)?,
        },
        18 => Body::ChangeRefused {
            reason: codec::get_text(input)?,
        },
        19 => Body::Fenced {
            log: codec::get_log(input)?,
            reason: codec::get_text(input)?,
        },
        20 => Body::TakeOver {
            ballot: ballot(input)?,
            chosen: number(input)?,
        },
        tag => return Err(DecodeError::Tag(tag)),
    })
}

fn put_change(output: &mut BytesMut, change: &MembershipChange) {
    match change {
        MembershipChange::AddLearner { log, info } => {
            output.put_u8(1);
            output.put_slice(&log.0);
            codec::put_bytes(output, info);
        }
        MembershipChange::Promote(node) => {
            output.put_u8(2);
            output.put_u32_le(node.0);
        }
        MembershipChange::Remove(node) => {
            output.put_u8(3);
            output.put_u32_le(node.0);
        }
        MembershipChange::Describe(node, info) => {
            output.put_u8(4);
            output.put_u32_le(node.0);
            codec::put_bytes(output, info);
        }
    }
}

fn get_change(input: &mut Bytes) -> Result<MembershipChange> {
    Ok(match codec::get_u8(input)? {
        1 => MembershipChange::AddLearner {
            log: codec::get_log(input)?,
            info: codec::get_info(input)?,
        },
        2 => MembershipChange::Promote(NodeId(codec::get_u32(input)?)),
        3 => MembershipChange::Remove(NodeId(codec::get_u32(input)?)),
        4 => MembershipChange::Describe(NodeId(codec::get_u32(input)?), codec::get_info(input)?),
        tag => return Err(DecodeError::Tag(tag)),
    })
}
