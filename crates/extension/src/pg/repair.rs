//! Putting rows of another node into the table that this transaction repairs (`pg/hold.rs`): as they are there, with the values of
//! stored generated columns, which no INSERT takes. Called by `synod._put_row`, once per row.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::apply::Filler;
use super::relation;
use super::relcache::Relation;
use super::teller::Columns;
use crate::errors::UserError;

/// Write a row. `row`: a value of the table's row type.
pub fn put(row: pg_sys::Datum) -> Result<(), UserError> {
    // SAFETY: by the function's declaration a composite value; its header says which.
    let (header, oid) = unsafe {
        pg_sys::PreventCommandIfReadOnly(c"synod._put_row()".as_ptr());
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast();
        let kind = (*header).t_choice.t_datum.datum_typeid;
        (header, pg_sys::get_typ_typrelid(kind))
    };
    let table = relation::by_oid(oid).filter(|_| super::capture::repairing() == oid);
    let (Some(table), Some(relation)) = (table, Relation::open_locked(oid, pg_sys::RowExclusiveLock)) else {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the row is not of a table that this transaction repairs",
            "It would be there on this node alone.",
            "Call synod._begin_repair in the same transaction; the command synod does.",
        ));
    };
    check_privilege(oid, &table.name)?;
    let count = relation.attribute_count();
    let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); count], vec![true; count]);
    let misfit = |error: super::apply::ApplyError| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the row cannot be written",
            format!("{error}."),
            "Rows can be repaired, definitions cannot: let the node leave and join again.",
        )
    };
    let mut filler = Filler::open(table).map_err(misfit)?;
    // SAFETY: a value of the row type of the relation, which is locked; it lives until the end of the call, as its values do.
    unsafe {
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varlena::varsize_any(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        pg_sys::heap_deform_tuple(
            &mut tuple,
            relation.descriptor(),
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
        );
        filler.put(Columns {
            values: &values,
            nulls: &nulls,
        });
    }
    filler.close();
    Ok(())
}

/// As for an INSERT; a row policy cannot be asked, so it is in the way.
fn check_privilege(table: pg_sys::Oid, name: &str) -> Result<(), UserError> {
    // SAFETY: inside a transaction; the table is locked.
    let allowed = unsafe {
        pg_sys::pg_class_aclcheck(table, pg_sys::GetUserId(), pg_sys::ACL_INSERT as pg_sys::AclMode)
            == pg_sys::AclResult::ACLCHECK_OK
            && pg_sys::check_enable_rls(table, pg_sys::InvalidOid, true)
                != pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
    };
    if allowed {
        return Ok(());
    }
    Err(UserError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("permission denied for table {name}"),
        "Rows are put into a table by who may INSERT, past its row policies.",
        "Let the table's owner or a superuser repair it.",
    ))
}
