//! How rows stand in `synod.record` messages, alike for who writes them (`pg/teller/tuple.rs`) and who reads them
//! (`pg/decode/message_row.rs`): as the heap would hold them, but for values whose output function trusts what is inside of them.
//!
//! Whoever knows the key of these messages can write any bytes, and a range, an array or a value of an extension's type made of any
//! bytes can end the process that prints it. Such values stand there as a bytea of what a client would be sent, and are received as
//! from a client.

use pgrx::pg_sys;

use super::compat;
use super::relcache::Relation;
use super::strong_table::Column;
use super::wire;

/// Whether values of a type (under all domains) stand there as they are stored: those that any bytes of the right length are values
/// of, as far as their output functions go, and enums. For numeric its reader looks inside. Inside a transaction.
pub fn is_stored(base: pg_sys::Oid) -> bool {
    matches!(
        base,
        pg_sys::BOOLOID
            | pg_sys::CHAROID
            | pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::OIDOID
            | pg_sys::FLOAT4OID
            | pg_sys::FLOAT8OID
            | pg_sys::MONEYOID
            | pg_sys::DATEOID
            | pg_sys::TIMEOID
            | pg_sys::TIMETZOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID
            | pg_sys::INTERVALOID
            | pg_sys::UUIDOID
            | pg_sys::TEXTOID
            | pg_sys::VARCHAROID
            | pg_sys::BPCHAROID
            | pg_sys::JSONOID
            | pg_sys::BYTEAOID
            | pg_sys::NUMERICOID
    ) || wire::text_is_fixed(base)
}

/// The row type of these rows, in the current memory context; null: the relation's own. `columns`: the live ones. Dropped columns
/// are NULL in them.
///
/// # Safety
/// Inside a transaction.
pub unsafe fn descriptor(relation: &Relation, columns: &[Column]) -> pg_sys::TupleDesc {
    let count = relation.attribute_count();
    if columns.len() == count && !columns.iter().any(|column| column.sent) {
        return std::ptr::null_mut();
    }
    // SAFETY: each attribute of the new one is filled in from that of the relation, or as a bytea.
    unsafe {
        let descriptor = pg_sys::CreateTemplateTupleDesc(count as i32);
        for index in 0..count {
            let number = index as i16 + 1;
            match columns.iter().find(|column| column.index == index) {
                Some(column) if !column.sent => {
                    pg_sys::TupleDescCopyEntry(descriptor, number, relation.descriptor(), number);
                }
                _ => pg_sys::TupleDescInitEntry(descriptor, number, std::ptr::null(), pg_sys::BYTEAOID, -1, 0),
            }
        }
        descriptor
    }
}

/// The bytes that an attribute's values are aligned to.
///
/// # Safety
/// `descriptor` has the attribute.
pub unsafe fn alignment(descriptor: pg_sys::TupleDesc, index: usize) -> u8 {
    // SAFETY: by contract.
    match unsafe { (*compat::tuple_attribute(descriptor, index)).attalign } as u8 {
        b'd' => 8,
        b'i' => 4,
        b's' => 2,
        _ => 1,
    }
}
