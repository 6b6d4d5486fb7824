//! Tables as decoding sees them, read once per definition: names, types, what identifies a row, and how each column's value
//! becomes text.
//!
//! Rows are decoded with the catalog as it was when they were written; a change of definition between two rows of a table
//! invalidates its shape ([`super::invalidation`]).

use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys;
use synod_change::stream::{Column, ReplicaIdentity, Table, TypeClass};

use super::strong::Standing;
use super::values::Output;
use crate::pg::relcache::Relation;

/// A table, and how its rows are read.
pub struct Shape {
    /// Whether its own changes are told.
    pub standing: Standing,
    /// What formats see of it.
    pub table: Table,
    /// How each of [`Table::columns`] is read.
    pub sources: Vec<Source>,
    /// Hashes of its types' catalog cache entries, which name them when they change.
    pub type_hashes: Vec<u32>,
    /// State of its types' functions.
    context: pg_sys::MemoryContext,
}

/// Where a column's value is, and how it becomes text.
pub struct Source {
    /// Attribute number - 1.
    pub index: usize,
    /// How.
    pub output: Output,
}

impl Drop for Shape {
    fn drop(&mut self) {
        // SAFETY: a child of TopMemoryContext and ours alone.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}

/// Read a relation's shape.
///
/// # Safety
/// In a callback that was passed `relation`, with the historic catalog.
pub unsafe fn load(relation: pg_sys::Relation, version: u64) -> Rc<Shape> {
    // SAFETY: by contract; the context is deleted with the shape (or leaked, if the rest raises).
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"synod decoded table".as_ptr(),
            0,
            1024,
            8 * 1024 * 1024,
        );
        let class = &*(*relation).rd_rel;
        let oid = (*relation).rd_id;
        // A rewrite writes into a table of its own, which is told as the one that it becomes.
        let name = if class.relrewrite == pg_sys::InvalidOid {
            bytes(class.relname.data.as_ptr())
        } else {
            bytes(pg_sys::get_rel_name(class.relrewrite))
        };
        let schema = bytes(pg_sys::get_namespace_name(class.relnamespace));
        let keys = Keys::of(relation);
        let mut shape = Shape {
            standing: Standing::of(relation, &schema),
            table: Table {
                version,
                oid: oid.to_u32(),
                quoted_name: [quoted(&schema), quoted(&name)].join(&b'.'),
                schema,
                name,
                columns: Vec::new(),
                identity: keys.identity,
                identity_hidden: false,
                partitioned: class.relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE,
            },
            sources: Vec::new(),
            type_hashes: Vec::new(),
            context,
        };
        let descriptor = (*relation).rd_att;
        for index in 0..(*descriptor).natts as usize {
            let attribute = &*crate::pg::compat::tuple_attribute(descriptor, index);
            if !attribute.attisdropped {
                shape.add(attribute, index, &keys);
            }
        }
        Rc::new(shape)
    }
}

impl Shape {
    unsafe fn add(&mut self, attribute: &pg_sys::FormData_pg_attribute, index: usize, keys: &Keys) {
        let type_oid = attribute.atttypid;
        let mut base_modifier = attribute.atttypmod;
        // SAFETY: inside a transaction; the type of a column exists in the catalog that it is read with.
        unsafe {
            let base = pg_sys::getBaseTypeAndTypmod(type_oid, &mut base_modifier);
            let name = bytes(attribute.attname.data.as_ptr());
            self.table.columns.push(Column {
                quoted_name: quoted(&name),
                name,
                type_name: bytes(pg_sys::format_type_be(type_oid)),
                full_type_name: bytes(pg_sys::format_type_with_typemod(type_oid, attribute.atttypmod)),
                base_type_name: bytes(pg_sys::format_type_be(base)),
                full_base_type_name: bytes(pg_sys::format_type_with_typemod(base, base_modifier)),
                type_oid: type_oid.to_u32(),
                type_modifier: attribute.atttypmod,
                number: attribute.attnum,
                class: class(type_oid),
                not_null: attribute.attnotnull,
                default: None,
                generated: attribute.attgenerated != 0,
                identity: (attribute.attidentity != 0).then_some(attribute.attidentity as u8 as char),
                in_primary_key: keys.primary.contains(&attribute.attnum),
                in_identity: keys.identity == ReplicaIdentity::Full || keys.replica.contains(&attribute.attnum),
                masked: false,
            });
            self.sources.push(Source {
                index,
                output: Output::of(type_oid, self.context),
            });
            for oid in [type_oid, base] {
                let zero = pg_sys::Datum::from(0);
                let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
                self.type_hashes
                    .push(pg_sys::GetSysCacheHashValue(cache, oid.into(), zero, zero, zero));
            }
        }
    }
}

/// What identifies a row: columns by attribute number.
struct Keys {
    identity: ReplicaIdentity,
    primary: Vec<i16>,
    replica: Vec<i16>,
}

impl Keys {
    unsafe fn of(relation: pg_sys::Relation) -> Self {
        // SAFETY: RelationGetIndexList fills in which indexes are the primary key and the replica identity; no lock is needed with
        // a historic catalog.
        unsafe {
            pg_sys::list_free(pg_sys::RelationGetIndexList(relation));
            Self {
                identity: match (*(*relation).rd_rel).relreplident as u8 {
                    b'i' => ReplicaIdentity::Index,
                    b'f' => ReplicaIdentity::Full,
                    b'n' => ReplicaIdentity::Nothing,
                    _ => ReplicaIdentity::Default,
                },
                primary: index_columns((*relation).rd_pkindex),
                replica: index_columns((*relation).rd_replidindex),
            }
        }
    }
}

fn index_columns(index: pg_sys::Oid) -> Vec<i16> {
    if index == pg_sys::InvalidOid {
        return Vec::new();
    }
    let Some(relation) = Relation::open(index) else {
        return Vec::new();
    };
    let Some(form) = relation.index_form() else {
        return Vec::new();
    };
    // SAFETY: indkey holds indnatts numbers, those of the key first.
    unsafe { std::slice::from_raw_parts(form.indkey.values.as_ptr(), form.indnkeyatts as usize).to_vec() }
}

/// Goes by the type itself, as `test_decoding` and wal2json do.
fn class(oid: pg_sys::Oid) -> TypeClass {
    match oid {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::OIDOID => TypeClass::Integer,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID | pg_sys::NUMERICOID => TypeClass::Number,
        pg_sys::BOOLOID => TypeClass::Boolean,
        pg_sys::BITOID | pg_sys::VARBITOID => TypeClass::Bits,
        pg_sys::JSONOID | pg_sys::JSONBOID => TypeClass::Json,
        pg_sys::BYTEAOID => TypeClass::Bytes,
        _ => TypeClass::Text,
    }
}

/// A C string's bytes; none for null.
unsafe fn bytes(text: *const std::ffi::c_char) -> Vec<u8> {
    if text.is_null() {
        return Vec::new();
    }
    // SAFETY: the server's strings end in NUL.
    unsafe { CStr::from_ptr(text).to_bytes().to_vec() }
}

/// As in SQL.
fn quoted(name: &[u8]) -> Vec<u8> {
    let Ok(name) = std::ffi::CString::new(name) else {
        return name.to_vec();
    };
    // SAFETY: returns its argument or a palloc'd string.
    unsafe { bytes(pg_sys::quote_identifier(name.as_ptr())) }
}
