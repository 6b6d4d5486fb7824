//! What a statement is about to write: strong tables must have their capture triggers, and writes to other permanent
//! tables are noted, because the two cannot share a transaction (`pg/mixed.rs`).

use pgrx::{pg_guard, pg_sys};

use super::guard::named;
use super::{expected, list, mixed, own_tables, relation};
use crate::errors::UserError;

/// Before a plan starts: look at its result relations.
///
/// # Safety
/// `query` is the argument of `ExecutorStart_hook`; its relations are locked.
pub unsafe fn before_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) -> Result<(), UserError> {
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
        return Ok(());
    }
    // SAFETY: by contract; result relations are numbers of range table entries, counted from 1.
    unsafe {
        let plan = (*query).plannedstmt;
        for at in 0..list::length((*plan).resultRelations) {
            let number = list::int((*plan).resultRelations, at);
            let entry = list::pointer::<pg_sys::RangeTblEntry>((*plan).rtable, number as usize - 1);
            check((*entry).relid)?;
        }
    }
    Ok(())
}

/// Whether a started plan writes strong tables.
///
/// # Safety
/// As for [`before_executor_start`].
pub unsafe fn writes_strong_tables(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: as there.
    unsafe {
        let plan = (*query).plannedstmt;
        (0..list::length((*plan).resultRelations)).any(|at| {
            let number = list::int((*plan).resultRelations, at);
            let entry = list::pointer::<pg_sys::RangeTblEntry>((*plan).rtable, number as usize - 1);
            relation::is_strong((*entry).relid)
        })
    }
}

/// Before a utility statement runs: COPY FROM and TRUNCATE write tables, DDL writes catalogs (on every node if it `travels`).
///
/// # Safety
/// `statement` is the utility statement of a valid plan.
pub unsafe fn before_utility(statement: *mut pg_sys::Node, travels: bool) -> Result<(), UserError> {
    // SAFETY: the tag says what the pointer may be cast to; missing relations are left to the statement itself.
    unsafe {
        if (*statement).type_ == pg_sys::NodeTag::T_CopyStmt {
            let copy = &*statement.cast::<pg_sys::CopyStmt>();
            if copy.is_from
                && let Some(oid) = locked(copy.relation, pg_sys::RowExclusiveLock, None)
            {
                check(oid)?;
            }
        } else if (*statement).type_ == pg_sys::NodeTag::T_TruncateStmt {
            let truncate = &*statement.cast::<pg_sys::TruncateStmt>();
            for range in list::pointers::<pg_sys::RangeVar>(truncate.relations) {
                if let Some(oid) = before_truncate(range) {
                    check_capture(oid)?;
                }
            }
        } else if !(travels || super::ddl::changes_group())
            && pg_sys::GetCommandLogLevel(statement) == pg_sys::LogStmtLevel::LOGSTMT_DDL
            && !is_temporary(statement)
        {
            mixed::note();
        }
    }
    Ok(())
}

/// The relation that a statement is about to write, locked as the statement itself is going to: what is found then holds when it writes.
///
/// # Safety
/// `range` is valid.
unsafe fn locked(
    range: *mut pg_sys::RangeVar,
    mode: u32,
    allowed: pg_sys::RangeVarGetRelidCallback,
) -> Option<pg_sys::Oid> {
    // SAFETY: by contract; missing is allowed.
    let oid = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            range,
            mode as pg_sys::LOCKMODE,
            pg_sys::RVROption::RVR_MISSING_OK,
            allowed,
            std::ptr::null_mut(),
        )
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The table, locked for TRUNCATE unless it is the group's: then the apply worker may have to get on before TRUNCATE may begin.
unsafe fn before_truncate(range: *mut pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    // SAFETY: a valid RangeVar; look-ups, inside a transaction.
    unsafe {
        let oid = named(range)?;
        let is_table = [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE]
            .contains(&(pg_sys::get_rel_relkind(oid) as u8));
        // What may not be truncated is TRUNCATE's business to say.
        if !is_table || pg_sys::XactReadOnly || relation::is_strong(oid) {
            return Some(oid);
        }
        locked(range, pg_sys::AccessExclusiveLock, Some(may_truncate))
    }
}

/// Before the lock is waited for: nobody waits for one that he may not have. As `RangeVarCallbackForTruncate` (commands/tablecmds.c).
#[pg_guard]
unsafe extern "C-unwind" fn may_truncate(
    _range: *const pg_sys::RangeVar,
    oid: pg_sys::Oid,
    _before: pg_sys::Oid,
    _argument: *mut core::ffi::c_void,
) {
    // SAFETY: look-ups inside a transaction.
    unsafe {
        let name = pg_sys::get_rel_name(oid);
        if name.is_null() {
            return;
        }
        let allowed = pg_sys::pg_class_aclcheck(oid, pg_sys::GetUserId(), pg_sys::ACL_TRUNCATE as pg_sys::AclMode);
        if allowed != pg_sys::AclResult::ACLCHECK_OK {
            let kind = pg_sys::get_relkind_objtype(pg_sys::get_rel_relkind(oid));
            pg_sys::aclcheck_error(allowed, kind, name);
        }
    }
}

fn check(oid: pg_sys::Oid) -> Result<(), UserError> {
    relation::assert_refers_to_no_strong_table(oid)?;
    check_capture(oid)
}

fn check_capture(oid: pg_sys::Oid) -> Result<(), UserError> {
    if relation::is_strong(oid) {
        return relation::assert_capturable(oid);
    }
    // SAFETY: a syscache look-up inside a transaction. Catalogs (and our own) are not the user's tables.
    let persistence = unsafe { pg_sys::get_rel_persistence(oid) };
    if persistence == pg_sys::RELPERSISTENCE_PERMANENT as core::ffi::c_char
        && u32::from(oid) >= pg_sys::FirstNormalObjectId
    {
        expected::assert_writable(oid)?;
        own_tables::check_write(oid)?;
        mixed::note();
    }
    Ok(())
}

/// Whether a DDL statement concerns temporary tables only: losing them in a crash loses nothing.
unsafe fn is_temporary(statement: *mut pg_sys::Node) -> bool {
    let temporary = pg_sys::RELPERSISTENCE_TEMP as core::ffi::c_char;
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_CreateStmt => {
                (*(*statement.cast::<pg_sys::CreateStmt>()).relation).relpersistence == temporary
            }
            pg_sys::NodeTag::T_CreateTableAsStmt => {
                (*(*(*statement.cast::<pg_sys::CreateTableAsStmt>()).into).rel).relpersistence == temporary
            }
            pg_sys::NodeTag::T_IndexStmt => named((*statement.cast::<pg_sys::IndexStmt>()).relation)
                .is_some_and(|oid| pg_sys::get_rel_persistence(oid) == temporary),
            pg_sys::NodeTag::T_DropStmt => {
                let drop = &*statement.cast::<pg_sys::DropStmt>();
                drop.removeType == pg_sys::ObjectType::OBJECT_TABLE
                    && list::pointers::<pg_sys::List>(drop.objects).into_iter().all(|name| {
                        named(pg_sys::makeRangeVarFromNameList(name))
                            .is_none_or(|oid| pg_sys::get_rel_persistence(oid) == temporary)
                    })
            }
            _ => false,
        }
    }
}
