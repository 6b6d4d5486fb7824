//! What a type is made of, and by which functions the values in it travel.

use pgrx::pg_sys;

use crate::pg::definition::SysCacheRow;
use crate::pg::strong_table::Function;
use crate::pg::{compat, wire};

/// How values of a type are made of others.
enum Makeup {
    /// They are not.
    Leaf,
    Array(pg_sys::Oid),
    Row,
    Range(pg_sys::Oid),
    Multirange(pg_sys::Oid),
}

impl Makeup {
    /// `base`: no domain. Inside a transaction.
    fn of(base: pg_sys::Oid) -> Self {
        let kind = SysCacheRow::find(pg_sys::SysCacheIdentifier::TYPEOID, base).map_or(0, |row| {
            // SAFETY: TYPEOID holds pg_type rows.
            unsafe { row.form::<pg_sys::FormData_pg_type>() }.typtype as u8
        });
        // SAFETY: look-ups inside a transaction; InvalidOid for what is no array.
        unsafe {
            match kind {
                b'c' => Self::Row,
                b'r' => Self::Range(pg_sys::get_range_subtype(base)),
                b'm' => Self::Multirange(pg_sys::get_multirange_range(base)),
                _ => match pg_sys::get_element_type(base) {
                    pg_sys::InvalidOid => Self::Leaf,
                    element => Self::Array(element),
                },
            }
        }
    }
}

/// Whether values of a type (under all domains) are taken apart. It does not change while the type exists. Inside a transaction.
pub fn is_taken_apart(base: pg_sys::Oid) -> bool {
    match Makeup::of(base) {
        Makeup::Leaf => false,
        Makeup::Row => true,
        Makeup::Array(part) | Makeup::Range(part) | Makeup::Multirange(part) => {
            let under = wire::base_type(part);
            part != under || under == pg_sys::XMLOID || is_taken_apart(under)
        }
    }
}

/// A type, ready for its values. Domains are left out.
pub enum Part {
    /// The bytes of the value; whether they are text.
    Plain(bool),
    Binary {
        function: Function,
        parameter: pg_sys::Oid,
    },
    Text {
        function: Function,
        parameter: pg_sys::Oid,
    },
    Array {
        element: Box<Part>,
        /// As arrays name it, domain or not.
        oid: pg_sys::Oid,
        layout: Layout,
    },
    Row {
        descriptor: pg_sys::TupleDesc,
        /// `None`: dropped.
        attributes: Vec<Option<Part>>,
    },
    Range {
        bound: Box<Part>,
        cache: *mut pg_sys::TypeCacheEntry,
    },
    Multirange {
        range: Box<Part>,
        cache: *mut pg_sys::TypeCacheEntry,
        oid: pg_sys::Oid,
    },
}

/// How an element is stored.
pub struct Layout {
    pub length: i16,
    pub by_value: bool,
    pub alignment: std::ffi::c_char,
}

/// Which functions are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Out,
    In,
}

impl Part {
    /// Inside a transaction.
    pub fn of(kind: pg_sys::Oid, way: Way) -> Self {
        let base = wire::base_type(kind);
        if wire::is_plain_bytes(base) {
            return Self::Plain(base != pg_sys::BYTEAOID);
        }
        if !is_taken_apart(base) {
            return Self::leaf(base, way);
        }
        // SAFETY: look-ups inside a transaction; the type cache lasts as long as the process, the descriptor is a copy.
        unsafe {
            let cache = |range| pg_sys::lookup_type_cache(range, pg_sys::TYPECACHE_RANGE_INFO as i32);
            match Makeup::of(base) {
                Makeup::Leaf => Self::leaf(base, way),
                Makeup::Array(oid) => {
                    let (mut length, mut by_value, mut alignment) = (0, false, 0);
                    pg_sys::get_typlenbyvalalign(oid, &mut length, &mut by_value, &mut alignment);
                    Self::Array {
                        element: Box::new(Self::of(oid, way)),
                        oid,
                        layout: Layout {
                            length,
                            by_value,
                            alignment,
                        },
                    }
                }
                Makeup::Row => {
                    let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(base, -1);
                    let attribute = |index| {
                        let attribute = &*compat::tuple_attribute(descriptor, index);
                        (!attribute.attisdropped).then(|| Self::of(attribute.atttypid, way))
                    };
                    Self::Row {
                        descriptor,
                        attributes: (0..(*descriptor).natts as usize).map(attribute).collect(),
                    }
                }
                Makeup::Range(bound) => Self::Range {
                    bound: Box::new(Self::of(bound, way)),
                    cache: cache(base),
                },
                Makeup::Multirange(range) => Self::Multirange {
                    range: Box::new(Self::of(range, way)),
                    cache: cache(range),
                    oid: base,
                },
            }
        }
    }

    fn leaf(base: pg_sys::Oid, way: Way) -> Self {
        let (mut oid, mut parameter, mut is_varlena) = (pg_sys::InvalidOid, pg_sys::InvalidOid, false);
        let binary = wire::is_binary(base);
        // SAFETY: inside a transaction; the type exists, as another has it; state goes with the current memory context.
        let function = unsafe {
            match (way, binary) {
                (Way::Out, true) => pg_sys::getTypeBinaryOutputInfo(base, &mut oid, &mut is_varlena),
                (Way::Out, false) => pg_sys::getTypeOutputInfo(base, &mut oid, &mut is_varlena),
                (Way::In, true) => pg_sys::getTypeBinaryInputInfo(base, &mut oid, &mut parameter),
                (Way::In, false) => pg_sys::getTypeInputInfo(base, &mut oid, &mut parameter),
            }
            Function::new(oid, pg_sys::CurrentMemoryContext)
        };
        if binary {
            Self::Binary { function, parameter }
        } else {
            Self::Text { function, parameter }
        }
    }
}
