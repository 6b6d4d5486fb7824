//! Certification keys: what a transaction claims, as 64-bit hashes with a lock mode.
//!
//! The hash is part of the log's meaning: nodes of different releases, majors and architectures must compute the same
//! one, so it is fixed here for ever and pinned by golden values (`tests/change/key.rs`). It is XXH3-64 with the seed
//! [`SEED`] over the bytes that the [`KeyHasher`] methods document. Two different keys with one hash only cost a
//! needless serialization failure, never a lost conflict.
//!
//! # Table keys
//!
//! Every record that writes rows of a table carries [`table_key`] of it once, in mode [`KeyMode::KeyShare`]. Row writers
//! so never disturb each other, and whatever needs the table for itself (TRUNCATE, a change of definition, LOCK TABLE
//! above ROW EXCLUSIVE, a write set with more keys than a record may hold) claims the same key in
//! [`KeyMode::Update`] and conflicts with every writer since its base. That is one key per table and record, whatever the
//! number of rows: 9 bytes in the log and one index entry per table in the certifier.

use xxhash_rust::xxh3::Xxh3;

use crate::TableId;

/// The strength of a claim: PostgreSQL's four tuple lock modes with their conflict table
/// (`src/backend/access/heap/heapam.c`, `tupleLockExtraInfo`; table 13.3 of its manual).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyMode {
    /// FOR KEY SHARE: a referencing row relies on the key.
    KeyShare = 0,
    /// FOR SHARE: the row must not change.
    Share = 1,
    /// FOR NO KEY UPDATE: the row changes, its key does not.
    NoKeyUpdate = 2,
    /// FOR UPDATE: the row comes, goes or changes its key.
    Update = 3,
}

impl KeyMode {
    /// All modes, weakest first; `ALL[m as usize] == m`.
    pub const ALL: [Self; 4] = [Self::KeyShare, Self::Share, Self::NoKeyUpdate, Self::Update];

    /// Whether two transactions that ran side by side may not both hold these claims on one key.
    #[must_use]
    pub const fn conflicts_with(self, other: Self) -> bool {
        self.conflicting() & (1 << other as u8) != 0
    }

    /// The modes that conflict with this one, as a bit mask over `mode as u8`.
    #[must_use]
    pub const fn conflicting(self) -> u8 {
        match self {
            Self::KeyShare => 0b1000,
            Self::Share => 0b1100,
            Self::NoKeyUpdate => 0b1110,
            Self::Update => 0b1111,
        }
    }

    /// The mode with this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::KeyShare),
            1 => Some(Self::Share),
            2 => Some(Self::NoKeyUpdate),
            3 => Some(Self::Update),
            _ => None,
        }
    }
}

/// One claim of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// From [`KeyHasher`], [`table_key`] or [`name_key`].
    pub hash: u64,
    /// How strong the claim is.
    pub mode: KeyMode,
}

/// `"synod\0k\x01"` read as a little-endian number: fixed for ever.
const SEED: u64 = u64::from_le_bytes(*b"synod\0k\x01");

/// The index number under which whole rows are hashed, for tables without a key (see `docs/architecture.md`).
pub const INDEX_WHOLE_ROW: u32 = u32::MAX;

/// Index number of the one key, without values, that who locks a table as a whole claims beside the table, and who writes it from
/// the moment on when it did so. Not the table's own key: that one a record with too many keys claims, too, which locks nobody out.
pub const INDEX_TABLE_LOCK: u32 = u32::MAX - 1;

/// Index number of the one key, without values, that who locks rows of a table against changes claims beside these rows' keys, for those
/// who write so many rows that the table stands for them: they claim it from the moment on when they did so.
pub const INDEX_ROW_LOCKS: u32 = u32::MAX - 2;

/// What a hash is about; the first byte hashed.
#[repr(u8)]
enum Domain {
    Index = 1,
    Table = 2,
    Name = 3,
    Ddl = 4,
}

/// Each component starts with one of these.
#[repr(u8)]
enum Tag {
    Null = 0,
    Bool = 1,
    Int = 2,
    Float = 3,
    Numeric = 4,
    Bytes = 5,
    Uuid = 6,
}

/// Hashes the values of one key, component by component in index column order.
///
/// Values that PostgreSQL's `=` of the index holds equal must be fed as the same call: int2, int4 and int8 (also dates and
/// times, by their internal number) through [`int`](Self::int), both float types through [`float`](Self::float), and
/// so on.
pub struct KeyHasher(Xxh3);

impl KeyHasher {
    /// A key of `index` (group-wide number, [`crate::IndexDefinition::id`]) of `table`. Hashes `01`, the table id and the
    /// index number, both little-endian.
    #[must_use]
    pub fn new(table: TableId, index: u32) -> Self {
        let mut hasher = Self::domain(Domain::Index);
        hasher.0.update(&table.0.to_le_bytes());
        hasher.0.update(&index.to_le_bytes());
        hasher
    }

    fn domain(domain: Domain) -> Self {
        let mut hasher = Xxh3::with_seed(SEED);
        hasher.update(&[domain as u8]);
        Self(hasher)
    }

    fn tagged(&mut self, tag: Tag, bytes: &[u8]) -> &mut Self {
        self.0.update(&[tag as u8]);
        self.0.update(bytes);
        self
    }

    fn tagged_length(&mut self, tag: Tag, bytes: &[u8]) -> &mut Self {
        self.tagged(tag, &(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// A NULL, where NULLs are equal (NULLS NOT DISTINCT, whole rows). Hashes `00`.
    pub fn null(&mut self) -> &mut Self {
        self.tagged(Tag::Null, &[])
    }

    /// Hashes `01` and a byte 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.tagged(Tag::Bool, &[u8::from(value)])
    }

    /// Hashes `02` and eight bytes, little-endian.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.tagged(Tag::Int, &value.to_le_bytes())
    }

    /// Hashes `03` and the eight bytes of the IEEE double, little-endian; -0 as 0, every NaN as one. Feed a float4 widened.
    pub fn float(&mut self, value: f64) -> &mut Self {
        let canonical = if value.is_nan() {
            0x7ff8_0000_0000_0000
        } else if value == 0.0 {
            0
        } else {
            value.to_bits()
        };
        self.tagged(Tag::Float, &canonical.to_le_bytes())
    }

    /// A numeric by its text form. Hashes `04`, the length (eight bytes, little-endian) and the text without needless
    /// zeros and signs: `1.00` as `1`, `-0.0` as `0`, `007.50` as `7.5`; `NaN`, `Infinity`, `-Infinity` as these.
    pub fn numeric(&mut self, text: &str) -> &mut Self {
        let text = text.trim();
        let (negative, magnitude) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || magnitude.is_empty() {
            return self.tagged_length(Tag::Numeric, special_numeric(negative, magnitude, text).as_bytes());
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole };
        let mut canonical = String::with_capacity(text.len() + 1);
        if negative && !(whole == "0" && fraction.is_empty()) {
            canonical.push('-');
        }
        canonical.push_str(whole);
        if !fraction.is_empty() {
            canonical.push('.');
            canonical.push_str(fraction);
        }
        self.tagged_length(Tag::Numeric, canonical.as_bytes())
    }

    /// Text (of a deterministic collation, in UTF-8), bytea, enum labels, canonical type output. Hashes `05`, the
    /// length (eight bytes, little-endian) and the bytes.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.tagged_length(Tag::Bytes, value)
    }

    /// Hashes `06` and the sixteen bytes.
    pub fn uuid(&mut self, value: &[u8; 16]) -> &mut Self {
        self.tagged(Tag::Uuid, value)
    }

    /// The hash of everything fed so far.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

fn special_numeric<'a>(negative: bool, magnitude: &str, text: &'a str) -> &'a str {
    let is = |name: &str| magnitude.eq_ignore_ascii_case(name);
    match (is("nan"), is("infinity") || is("inf"), negative) {
        (true, _, _) => "NaN",
        (_, true, false) => "Infinity",
        (_, true, true) => "-Infinity",
        _ => text,
    }
}

/// The key of a table as a whole. Hashes `02` and the table id.
#[must_use]
pub fn table_key(table: TableId) -> u64 {
    let mut hasher = KeyHasher::domain(Domain::Table);
    hasher.0.update(&table.0.to_le_bytes());
    hasher.finish()
}

/// The key of a table's name: two nodes that begin to replicate tables of one name conflict. Hashes `03` and both
/// names, each as by [`KeyHasher::bytes`].
#[must_use]
pub fn name_key(schema: &str, name: &str) -> u64 {
    let mut hasher = KeyHasher::domain(Domain::Name);
    hasher.bytes(schema.as_bytes()).bytes(name.as_bytes());
    hasher.finish()
}

/// The key that marks a record with DDL: only the holder of the group's DDL lock commits one. Hashes `04`.
#[must_use]
pub fn ddl_key() -> u64 {
    static KEY: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| KeyHasher::domain(Domain::Ddl).finish());
    *KEY
}
