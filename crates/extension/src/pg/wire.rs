//! How the values of a type travel, and how they are hashed into certification keys.
//!
//! A type travels in binary only if its binary form means the same on every node and in every major version: built-in
//! base, array and range types that hold no OIDs of objects. Everything else travels as text. Types are hashed by a
//! canonical form of their own when it is known that equal values then give equal hashes; else the table as a whole is
//! the key.

use pgrx::pg_sys;
use synod_change::KeyHasher;

use super::definition::SysCacheRow;

/// The first OID that does not belong to the server itself (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16384;

/// Types that are numbers of objects and are printed as their names.
pub const NAMED_NUMBERS: [pg_sys::Oid; 11] = [
    pg_sys::REGPROCOID,
    pg_sys::REGPROCEDUREOID,
    pg_sys::REGOPEROID,
    pg_sys::REGOPERATOROID,
    pg_sys::REGCLASSOID,
    pg_sys::REGTYPEOID,
    pg_sys::REGROLEOID,
    pg_sys::REGNAMESPACEOID,
    pg_sys::REGCONFIGOID,
    pg_sys::REGDICTIONARYOID,
    pg_sys::REGCOLLATIONOID,
];

/// Others whose binary form names objects by OID, or is not one that the server promises to keep.
const NOT_PORTABLE: [pg_sys::Oid; 3] = [pg_sys::ACLITEMOID, pg_sys::PG_NODE_TREEOID, pg_sys::RECORDOID];

/// The type under all domains.
pub fn base_type(oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: inside a transaction; raises only for a type that does not exist.
    unsafe { pg_sys::getBaseType(oid) }
}

/// Whether values of this type travel in binary.
pub fn is_binary(oid: pg_sys::Oid) -> bool {
    let base = base_type(oid);
    if u32::from(base) >= FIRST_USER_OID || NAMED_NUMBERS.contains(&base) || NOT_PORTABLE.contains(&base) {
        return false;
    }
    // SAFETY: inside a transaction; returns InvalidOid for what is no array.
    let element = unsafe { pg_sys::get_element_type(base) };
    if element != pg_sys::InvalidOid {
        return is_binary(element);
    }
    let Some(row) = SysCacheRow::find(pg_sys::SysCacheIdentifier::TYPEOID, base) else {
        return false;
    };
    // SAFETY: TYPEOID holds pg_type rows.
    let form = unsafe { row.form::<pg_sys::FormData_pg_type>() };
    matches!(form.typtype as u8, b'b' | b'r' | b'm')
        && form.typsend != pg_sys::InvalidOid
        && form.typreceive != pg_sys::InvalidOid
}

/// Whether the binary form is just the bytes of the value (as long as the client encoding is the database's).
pub fn is_plain_bytes(base: pg_sys::Oid) -> bool {
    [
        pg_sys::TEXTOID,
        pg_sys::VARCHAROID,
        pg_sys::BPCHAROID,
        pg_sys::BYTEAOID,
        pg_sys::JSONOID,
        // Its send function rewrites the XML declaration, which casts to text show as it was given.
        pg_sys::XMLOID,
    ]
    .contains(&base)
}

/// Whether the text form is the same under every setting.
pub fn text_is_fixed(base: pg_sys::Oid) -> bool {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::get_typtype(base) as u8 == b'e' }
}

/// Whether a foreign key between columns of these types compares instants that are stored differently: dates, timestamps
/// and timestamps with time zone equal each other by conversion, which for the last depends on the session's time zone.
pub fn converts_instants(one: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    const INSTANTS: [pg_sys::Oid; 3] = [pg_sys::DATEOID, pg_sys::TIMESTAMPOID, pg_sys::TIMESTAMPTZOID];
    let (one, other) = (base_type(one), base_type(other));
    one != other && (INSTANTS.contains(&one) || INSTANTS.contains(&other))
}

/// How a type's values are hashed: one of these per way of reading a datum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// One byte.
    Bool,
    /// A signed byte, "char".
    Byte,
    /// Two bytes, signed.
    Int16,
    /// Four bytes, signed: int4, date.
    Int32,
    /// Four bytes, unsigned: oid.
    Oid,
    /// Eight bytes: int8, time, timestamp, timestamptz, money.
    Int64,
    /// float4, widened.
    Float4,
    /// float8.
    Float8,
    /// By its text, normalised.
    Numeric,
    /// An int2, int4 or int8 that refers to a numeric (the number says how many bytes).
    IntAsNumeric(u8),
    /// The bytes of text, varchar, bytea.
    Bytes,
    /// Without trailing blanks: char(n), and text that refers to it.
    Padded,
    /// Up to the first NUL.
    Name,
    /// 16 bytes.
    Uuid,
    /// Fixed-length by-reference values whose equality is that of their bytes.
    Fixed(u8),
    /// By length: '1 day' equals '24 hours'.
    Interval,
    /// The bytes of inet and cidr.
    Inet,
    /// By label.
    Enum,
}

impl Hashing {
    /// For this type and collation; `None` when equality is not known well enough.
    pub fn of(oid: pg_sys::Oid, collation: pg_sys::Oid) -> Option<Self> {
        let base = base_type(oid);
        // SAFETY: inside a transaction; the collation exists, as a column has it.
        let exact = || unsafe { collation == pg_sys::InvalidOid || pg_sys::get_collation_isdeterministic(collation) };
        Some(match base {
            pg_sys::BOOLOID => Self::Bool,
            pg_sys::CHAROID => Self::Byte,
            pg_sys::INT2OID => Self::Int16,
            pg_sys::INT4OID | pg_sys::DATEOID => Self::Int32,
            pg_sys::OIDOID => Self::Oid,
            pg_sys::INT8OID | pg_sys::TIMEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID | pg_sys::MONEYOID => {
                Self::Int64
            }
            pg_sys::FLOAT4OID => Self::Float4,
            pg_sys::FLOAT8OID => Self::Float8,
            pg_sys::NUMERICOID => Self::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID if exact() => Self::Bytes,
            pg_sys::BPCHAROID if exact() => Self::Padded,
            pg_sys::BYTEAOID => Self::Bytes,
            pg_sys::NAMEOID if exact() => Self::Name,
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::TIMETZOID => Self::Fixed(12),
            pg_sys::MACADDROID => Self::Fixed(6),
            pg_sys::MACADDR8OID => Self::Fixed(8),
            pg_sys::INTERVALOID => Self::Interval,
            pg_sys::INETOID | pg_sys::CIDROID => Self::Inet,
            // SAFETY: inside a transaction.
            _ if unsafe { pg_sys::get_typtype(base) as u8 == b'e' } => Self::Enum,
            _ => return None,
        })
    }

    /// For a referencing column, so that it hashes as the `referenced` one; `None` when the two compare in a way that
    /// hashes do not follow. Not for types of which [`converts_instants`] is true: they are hashed alike without being so.
    pub fn referring_to(self, referenced: Self) -> Option<Self> {
        use Hashing::{Bytes, Float4, Float8, Int16, Int32, Int64, Name, Numeric, Padded};
        match (self, referenced) {
            (one, other) if one == other => Some(one),
            (Int16 | Int32 | Int64, Int16 | Int32 | Int64) | (Float4, Float8) | (Float8, Float4) => Some(self),
            (Int16, Numeric) => Some(Self::IntAsNumeric(2)),
            (Int32, Numeric) => Some(Self::IntAsNumeric(4)),
            (Int64, Numeric) => Some(Self::IntAsNumeric(8)),
            (Bytes, Padded) | (Padded, Bytes) => Some(Padded),
            (Name, Bytes) => Some(Name),
            _ => None,
        }
    }

    /// Feed a value, not NULL.
    ///
    /// # Safety
    /// `datum` is a value of the type that this was made for.
    pub unsafe fn feed(self, hasher: &mut KeyHasher, datum: pg_sys::Datum) {
        match self {
            Self::Bool => hasher.bool(datum.value() as u8 != 0),
            Self::Byte => hasher.int(i64::from(datum.value() as i8)),
            Self::Int16 => hasher.int(i64::from(datum.value() as i16)),
            Self::Int32 => hasher.int(i64::from(datum.value() as i32)),
            Self::Oid => hasher.int(i64::from(datum.value() as u32)),
            Self::Int64 => hasher.int(datum.value() as i64),
            Self::Float4 => hasher.float(f64::from(f32::from_bits(datum.value() as u32))),
            Self::Float8 => hasher.float(f64::from_bits(datum.value() as u64)),
            Self::IntAsNumeric(2) => hasher.numeric(&(datum.value() as i16).to_string()),
            Self::IntAsNumeric(4) => hasher.numeric(&(datum.value() as i32).to_string()),
            Self::IntAsNumeric(_) => hasher.numeric(&(datum.value() as i64).to_string()),
            _ => {
                // SAFETY: by contract.
                unsafe { self.feed_reference(hasher, datum) }
                hasher
            }
        };
    }

    /// The types passed by reference.
    ///
    /// # Safety
    /// As for `feed`.
    unsafe fn feed_reference(self, hasher: &mut KeyHasher, datum: pg_sys::Datum) {
        // SAFETY: the datum is of the type that `self` stands for, so that it points at what is read here.
        unsafe {
            match self {
                Self::Numeric => {
                    let text = pgrx::direct_function_call::<&std::ffi::CStr>(pg_sys::numeric_out, &[Some(datum)]);
                    hasher.numeric(&text.unwrap_or_default().to_string_lossy());
                }
                Self::Enum => {
                    let text = pgrx::direct_function_call::<&std::ffi::CStr>(pg_sys::enum_out, &[Some(datum)]);
                    hasher.bytes(text.unwrap_or_default().to_bytes());
                }
                Self::Name => {
                    hasher.bytes(std::ffi::CStr::from_ptr(datum.cast_mut_ptr()).to_bytes());
                }
                Self::Uuid => {
                    hasher.uuid(&*datum.cast_mut_ptr::<[u8; 16]>());
                }
                Self::Fixed(length) => {
                    hasher.bytes(std::slice::from_raw_parts(datum.cast_mut_ptr(), usize::from(length)));
                }
                Self::Interval => {
                    hasher.bytes(&interval_length(&*datum.cast_mut_ptr::<pg_sys::Interval>()).to_le_bytes());
                }
                Self::Padded => {
                    let bytes = varlena_bytes(datum);
                    let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
                    hasher.bytes(&bytes[..end]);
                }
                _ => {
                    hasher.bytes(varlena_bytes(datum));
                }
            }
        }
    }
}

/// As `interval_cmp_value` (utils/adt/timestamp.c): months of 30 days, days of 24 hours, in microseconds.
fn interval_length(interval: &pg_sys::Interval) -> i128 {
    const DAY_US: i128 = 86_400_000_000;
    (i128::from(interval.month) * 30 + i128::from(interval.day)) * DAY_US + i128::from(interval.time)
}

/// The payload of a varlena, decompressed and fetched; what had to be allocated is in the current memory context.
///
/// # Safety
/// `datum` is a varlena. The result lives as long as both the datum and the current memory context.
pub unsafe fn varlena_bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: by contract; pg_detoast_datum_packed leaves plain and short varlenas in place.
    unsafe {
        let varlena = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        std::slice::from_raw_parts(pgrx::vardata_any(varlena).cast(), pgrx::varsize_any_exhdr(varlena))
    }
}
