//! Numbers, LSNs and event ids as formats of text write them.

use std::fmt;
use std::io::Write as _;

use super::EventId;

pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// As PostgreSQL prints a `pg_lsn`.
pub(super) fn put_lsn(out: &mut Vec<u8>, lsn: u64) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "{:X}/{:X}", lsn >> 32, lsn as u32);
}

/// Two digits for each byte.
pub(super) fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(
        bytes
            .iter()
            .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
    );
}

/// As its `Display`.
pub(super) fn put_id(out: &mut Vec<u8>, id: &EventId<'_>) {
    let ordinal = match *id {
        EventId::Group { group, csn, ordinal } => {
            out.extend_from_slice(group.as_bytes());
            out.push(b'/');
            put_number(out, csn);
            ordinal
        }
        EventId::Commit { lsn, ordinal } => {
            put_lsn(out, lsn);
            ordinal
        }
        EventId::Open { xid, ordinal } => {
            out.extend_from_slice(b"xid/");
            put_number(out, xid.into());
            ordinal
        }
    };
    out.push(b'/');
    put_number(out, ordinal);
}

impl EventId<'_> {
    /// The id of what comes so many ordinals later.
    #[must_use]
    pub const fn later(mut self, by: u64) -> Self {
        let (Self::Group { ordinal, .. } | Self::Commit { ordinal, .. } | Self::Open { ordinal, .. }) = &mut self;
        *ordinal = ordinal.saturating_add(by);
        self
    }
}

/// `group/csn/ordinal`; `commit LSN/ordinal`; `xid/number/ordinal` while the transaction is in progress.
impl fmt::Display for EventId<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(64);
        put_id(&mut text, self);
        formatter.write_str(&String::from_utf8_lossy(&text))
    }
}

#[cfg(test)]
mod tests {
    use crate::stream::EventId;

    #[test]
    fn ids_have_one_text() {
        let group = "6d1f1c7e-0000-4000-8000-00000000000a";
        let ids = [
            (
                EventId::Group {
                    group,
                    csn: 4711,
                    ordinal: 2,
                },
                "6d1f1c7e-0000-4000-8000-00000000000a/4711/2",
            ),
            (
                EventId::Commit {
                    lsn: 0x16_b3f0_0028,
                    ordinal: 10,
                },
                "16/B3F00028/10",
            ),
            (EventId::Open { xid: 741, ordinal: 1 }, "xid/741/1"),
        ];
        for (id, text) in ids {
            assert_eq!(id.to_string(), text);
        }
    }
}
