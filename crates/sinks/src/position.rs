//! Where a sink is in a stream, as it is kept in a file beside its events (`PATH.position`).
//!
//! ```text
//! synod position 1 number=7 slot=feed system=7301234567890123456 timeline=1 lsn=0/1978A48 csn=0 files=3 snapshot=false crc32c=9f24e53a
//! ```
//!
//! Two lines of one length, written in turn: line `number % 2` is written while the other one stays as it is. A write that is cut off
//! spoils one line, and the other one says what was durable before it.

use crate::lsn;

/// A line, its line break among it: no more than a sector of any disk.
pub const LINE_BYTES: usize = 512;

/// Up to where everything of a slot is in the sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Counts the writes.
    pub number: u64,
    /// The slot.
    pub slot: String,
    /// The system identifier of the server that was read.
    pub system: String,
    /// Its timeline; 0: not known, as it was a standby's.
    pub timeline: u32,
    /// Everything before here is in the sink.
    pub lsn: u64,
    /// All records of the group up to here are, too; 0 without a group.
    pub csn: u64,
    /// The number of the last file that was put aside.
    pub files: u64,
    /// Nothing but an initial snapshot has come.
    pub snapshot: bool,
}

impl Position {
    /// Where in the file it is written.
    #[must_use]
    pub const fn place(&self) -> u64 {
        (self.number % 2) * LINE_BYTES as u64
    }

    /// The line.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = format!(
            "synod position 1 number={} slot={} system={} timeline={} lsn={} csn={} files={} snapshot={}",
            self.number,
            self.slot,
            self.system,
            self.timeline,
            lsn::text(self.lsn),
            self.csn,
            self.files,
            self.snapshot
        );
        line += &format!(" crc32c={:08x}", crc32c::crc32c(line.as_bytes()));
        let mut line = line.into_bytes();
        line.resize(LINE_BYTES - 1, b' ');
        line.push(b'\n');
        line
    }
}

/// The newer one of its whole lines; `None`: there is none, so nothing can be said.
#[must_use]
pub fn newest(content: &[u8]) -> Option<Position> {
    let lines = content.chunks(LINE_BYTES).take(2).filter_map(parse);
    lines.max_by_key(|position| position.number)
}

/// A line that is exactly as [`Position::line`] writes it.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Position> {
    let mut words = std::str::from_utf8(bytes).ok()?.split(' ').skip(3);
    let mut value = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
    let position = Position {
        number: value("number")?.parse().ok()?,
        slot: value("slot")?.to_owned(),
        system: value("system")?.to_owned(),
        timeline: value("timeline")?.parse().ok()?,
        lsn: lsn::parse(value("lsn")?)?,
        csn: value("csn")?.parse().ok()?,
        files: value("files")?.parse().ok()?,
        snapshot: value("snapshot")?.parse().ok()?,
    };
    (position.line() == bytes).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(number: u64) -> Position {
        Position {
            number,
            slot: "feed".into(),
            system: "7301234567890123456".into(),
            timeline: 1,
            lsn: 0x0197_8A48 + number,
            csn: 4_710,
            files: 3,
            snapshot: false,
        }
    }

    #[test]
    fn a_write_that_is_cut_off_leaves_the_one_before() {
        let (old, new) = (position(6), position(7));
        let whole = [old.line(), new.line()].concat();
        assert_eq!(newest(&whole), Some(new.clone()));
        for cut in LINE_BYTES..2 * LINE_BYTES {
            let mut torn = whole.clone();
            let kept = &mut torn[cut..];
            kept.fill(0);
            let there = newest(&torn);
            assert!(there == Some(old.clone()) || torn == whole, "{cut}: {there:?}");
        }
        assert_eq!(newest(&whole[..LINE_BYTES]), Some(old.clone()));
        let next = [position(8).line(), new.line()].concat();
        assert_eq!(newest(&next), Some(position(8)));
        assert_eq!((old.place(), new.place()), (0, LINE_BYTES as u64));
    }

    /// As the first release writes it.
    #[test]
    fn what_is_on_disk_stays_readable() {
        let content = include_bytes!("../tests/fixtures/position_1.bin");
        assert_eq!(newest(content), Some(position(7)));
        assert_eq!(content[..], [position(6).line(), position(7).line()].concat());
    }

    proptest! {
        #[test]
        fn nothing_but_what_was_written_is_read(number: u64, at in 0..LINE_BYTES, byte: u8) {
            let mut line = position(number).line();
            prop_assert_eq!(parse(&line), Some(position(number)));
            let changed = line[at] != byte;
            line[at] = byte;
            prop_assert_eq!(parse(&line).is_none(), changed);
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = newest(&bytes);
        }
    }
}
