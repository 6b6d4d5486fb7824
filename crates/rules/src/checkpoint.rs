//! A certifier's state as bytes: a node's own checkpoint, and what a joining node is given.
//!
//! ```text
//! version u8 = 1 | crc u32 over what follows | position, last_commit, floor (varints)
//! nodes:     count, then each node, incarnation, closed, contiguous, above: count and distances
//! fragments: count of nodes, then each node: count and distances
//! window:    count of records, then each distance and number of keys; hashes (8 bytes each); modes (four to a byte)
//! DDL lock:  0, or 1, node, incarnation, transaction, position, all (bool), count of tables, their numbers (8 bytes each);
//!            or 2, and behind all that the expected tables: count, then each schema and name
//! ```
//! Everything is sorted, distances are from the one before: equal states have equal bytes.

use std::collections::BTreeSet;

use synod_change::wire::{Decoder, put_varint};
use synod_change::{DdlLockRecord, DecodeError, ExpectedTable, Key, KeyMode, TableId, TransactionId};

use crate::Certifier;
use crate::ddl::DdlLock;
use crate::fragments::{Fragments, MAX_OPEN_FRAGMENTS};
use crate::mutants::{Mutant, active};
use crate::nodes::{Incarnation, MAX_SEQUENCE_LEAD, Nodes};
use crate::window::Window;

const VERSION: u8 = 1;
const CONTENT_AT: usize = 5;
const WHAT: &str = "certifier checkpoint";

impl Certifier {
    /// The state as bytes; equal states have equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; CONTENT_AT];
        out[0] = VERSION;
        for number in [self.position, self.last_commit, self.floor()] {
            put_varint(&mut out, number);
        }
        put_nodes(&mut out, &self.nodes);
        put_varint(&mut out, self.fragments.open.len() as u64);
        for (node, open) in &self.fragments.open {
            put_varint(&mut out, (*node).into());
            put_ascending(&mut out, open);
        }
        put_window(&mut out, &self.window);
        put_ddl_lock(&mut out, self.ddl_lock.as_ref());
        let crc = crc32c::crc32c(&out[CONTENT_AT..]);
        out[1..CONTENT_AT].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] for a newer release's bytes, [`DecodeError::Corrupt`] for damage.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_into(bytes, Window::new())
    }

    pub(crate) fn decode_into(bytes: &[u8], window: Window) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(WHAT, bytes);
        let version = decoder.u8()?;
        if version != VERSION {
            return Err(DecodeError::Unknown {
                what: "certifier checkpoint version",
                number: version.into(),
            });
        }
        let crc = decoder.u32()?;
        if crc != crc32c::crc32c(&bytes[CONTENT_AT..]) {
            return Err(decoder.corrupt("its checksum does not match"));
        }
        let mut certifier = Self::with_window(window);
        certifier.position = decoder.varint()?;
        certifier.restored_at = certifier.position;
        certifier.last_commit = decoder.varint()?;
        let floor = decoder.varint()?;
        // Positions are bigint in SQL; what follows this one must have a number, too.
        let last = i64::MAX as u64 - 1;
        if !(floor <= certifier.last_commit
            && certifier.last_commit <= certifier.position
            && certifier.position <= last)
        {
            return Err(decoder.corrupt("its positions are not in order"));
        }
        certifier.window.set_floor(floor);
        certifier.nodes = read_nodes(&mut decoder)?;
        certifier.fragments = read_fragments(&mut decoder, certifier.position)?;
        read_window(&mut decoder, &mut certifier.window, certifier.last_commit)?;
        certifier.ddl_lock = read_ddl_lock(&mut decoder, certifier.position)?;
        decoder.finish()?;
        Ok(certifier)
    }
}

fn put_ascending<'a>(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = &'a u64, IntoIter: ExactSizeIterator>) {
    let numbers = numbers.into_iter();
    put_varint(out, numbers.len() as u64);
    let mut before = 0;
    for number in numbers {
        put_varint(out, number - before);
        before = *number;
    }
}

/// A number above `before` and not above `limit`.
fn read_above(decoder: &mut Decoder<'_>, before: u64, limit: u64) -> Result<u64, DecodeError> {
    let step = decoder.varint()?;
    match before.checked_add(step) {
        Some(number) if step > 0 && number <= limit => Ok(number),
        _ => Err(decoder.corrupt("its positions are not in order")),
    }
}

fn read_ascending(decoder: &mut Decoder<'_>, most: usize, limit: u64) -> Result<BTreeSet<u64>, DecodeError> {
    let count = decoder.count(most, 1)?;
    let mut numbers = BTreeSet::new();
    let mut before = 0;
    for _ in 0..count {
        before = read_above(decoder, before, limit)?;
        numbers.insert(before);
    }
    Ok(numbers)
}

fn put_nodes(out: &mut Vec<u8>, nodes: &Nodes) {
    put_varint(out, nodes.current.len() as u64);
    for (node, incarnation) in &nodes.current {
        put_varint(out, (*node).into());
        put_varint(out, incarnation.number);
        out.push(incarnation.closed.into());
        put_varint(out, incarnation.contiguous);
        if active(Mutant::CheckpointWithoutSequences) {
            put_ascending(out, &BTreeSet::new());
        } else {
            put_ascending(out, &incarnation.above);
        }
    }
}

fn read_nodes(decoder: &mut Decoder<'_>) -> Result<Nodes, DecodeError> {
    let count = decoder.count(usize::MAX, 5)?;
    let mut nodes = Nodes::default();
    for _ in 0..count {
        let node = decoder.varint_u32()?;
        if nodes.current.last_key_value().is_some_and(|(last, _)| *last >= node) {
            return Err(decoder.corrupt("its nodes are not in order"));
        }
        let (number, closed, contiguous) = (decoder.varint()?, decoder.bool()?, decoder.varint()?);
        let highest = contiguous.saturating_add(MAX_SEQUENCE_LEAD);
        let above = read_ascending(decoder, MAX_SEQUENCE_LEAD as usize, highest)?;
        if above
            .first()
            .is_some_and(|first| *first <= contiguous.saturating_add(1))
        {
            return Err(decoder.corrupt("its sequences are not in order"));
        }
        nodes.current.insert(
            node,
            Incarnation {
                number,
                closed,
                contiguous,
                above,
            },
        );
    }
    Ok(nodes)
}

fn read_fragments(decoder: &mut Decoder<'_>, position: u64) -> Result<Fragments, DecodeError> {
    let count = decoder.count(usize::MAX, 3)?;
    let mut fragments = Fragments::default();
    for _ in 0..count {
        let node = decoder.varint_u32()?;
        if fragments.open.last_key_value().is_some_and(|(last, _)| *last >= node) {
            return Err(decoder.corrupt("its nodes are not in order"));
        }
        let open = read_ascending(decoder, MAX_OPEN_FRAGMENTS, position)?;
        if open.is_empty() {
            return Err(decoder.corrupt("a node without open fragments is listed"));
        }
        fragments.open.insert(node, open);
    }
    Ok(fragments)
}

fn put_window(out: &mut Vec<u8>, window: &Window) {
    if active(Mutant::CheckpointWithoutWindow) {
        put_varint(out, 0);
        return;
    }
    put_varint(out, window.records().len() as u64);
    let mut before = window.floor();
    for (position, keys) in window.records() {
        put_varint(out, position - before);
        put_varint(out, keys as u64);
        before = position;
    }
    window
        .keys()
        .for_each(|key| out.extend_from_slice(&key.hash.to_le_bytes()));
    let mut byte = 0;
    let mut used = 0;
    for key in window.keys() {
        byte |= (key.mode as u8) << (2 * used);
        used += 1;
        if used == 4 {
            out.push(byte);
            (byte, used) = (0, 0);
        }
    }
    if used > 0 {
        out.push(byte);
    }
}

fn read_window(decoder: &mut Decoder<'_>, window: &mut Window, last_commit: u64) -> Result<(), DecodeError> {
    let (max_records, max_keys) = window.limits();
    let count = decoder.count(max_records, 2)?;
    let mut records = Vec::with_capacity(count);
    let mut before = window.floor();
    let mut total = 0usize;
    for _ in 0..count {
        before = read_above(decoder, before, last_commit)?;
        let keys = decoder.count(max_keys, 8)?;
        total += keys;
        if keys == 0 || total > max_keys {
            return Err(decoder.corrupt("its records have no or too many keys"));
        }
        records.push((before, keys));
    }
    if total.saturating_mul(8) > decoder.remaining() {
        return Err(decoder.corrupt("it ends too early"));
    }
    let mut hashes = decoder.take(total * 8)?.as_chunks::<8>().0.iter();
    let modes = decoder.take(total.div_ceil(4))?;
    if !total.is_multiple_of(4) && modes[total / 4] >> (total % 4 * 2) != 0 {
        return Err(decoder.corrupt("bits behind its last key are set"));
    }
    let mut at = 0;
    let mut keys = Vec::new();
    for (position, number) in records {
        keys.clear();
        for hash in hashes.by_ref().take(number) {
            let mode = KeyMode::ALL[usize::from(modes[at / 4] >> (at % 4 * 2) & 3)];
            keys.push(Key {
                hash: u64::from_le_bytes(*hash),
                mode,
            });
            at += 1;
        }
        window.push(position, &keys);
    }
    Ok(())
}

/// What is told of the DDL lock: nothing, that it is held, and that with the names of expected tables.
const LOCK_FREE: u8 = 0;
const LOCK_HELD: u8 = 1;
const LOCK_EXPECTING: u8 = 2;

fn put_ddl_lock(out: &mut Vec<u8>, lock: Option<&DdlLock>) {
    let Some(lock) = lock else {
        out.push(LOCK_FREE);
        return;
    };
    let expecting = !lock.expected.is_empty();
    out.push(if expecting { LOCK_EXPECTING } else { LOCK_HELD });
    put_varint(out, lock.owner.node.into());
    put_varint(out, lock.owner.incarnation);
    put_varint(out, lock.owner.number);
    put_varint(out, lock.position);
    out.push(lock.all.into());
    put_varint(out, lock.tables.len() as u64);
    for table in lock.tables() {
        out.extend_from_slice(&table.0.to_le_bytes());
    }
    if expecting {
        put_varint(out, lock.expected.len() as u64);
        lock.expected.iter().for_each(|table| table.put(out));
    }
}

fn read_ddl_lock(decoder: &mut Decoder<'_>, position: u64) -> Result<Option<DdlLock>, DecodeError> {
    let told = decoder.u8()?;
    if told == LOCK_FREE {
        return Ok(None);
    }
    if told > LOCK_EXPECTING {
        return Err(decoder.corrupt("what it says of the DDL lock is unknown"));
    }
    let owner = TransactionId {
        node: decoder.varint_u32()?,
        incarnation: decoder.varint()?,
        number: decoder.varint()?,
    };
    let at = read_above(decoder, 0, position)?;
    let all = decoder.bool()?;
    let count = decoder.count(usize::MAX, 8)?;
    let tables = (0..count)
        .map(|_| decoder.u64().map(TableId))
        .collect::<Result<Vec<_>, _>>()?;
    let expected = if told == LOCK_EXPECTING {
        let count = decoder.count(usize::MAX, 2)?;
        let names = (0..count)
            .map(|_| ExpectedTable::read(decoder))
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() || !names.is_sorted_by(|one, next| one < next) {
            return Err(decoder.corrupt("its expected tables are not in order"));
        }
        names
    } else {
        Vec::new()
    };
    let request = DdlLockRecord {
        transaction: owner.number,
        all,
        tables,
        expected,
    };
    Ok(Some(DdlLock::new(owner, at, &request)))
}
