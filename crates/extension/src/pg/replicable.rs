//! Which relations can be replicated, as far as this node can tell.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::relcache::{Relation, name_text};
use super::{catalog, encoding, hierarchy, portable};
use crate::errors::UserError;

const WRONG_TYPE: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE;
const UNSUPPORTED: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED;
const ORDINARY_ONLY: &str = "Only ordinary tables can be replicated.";

/// The one table of the extension that is replicated like a user's.
pub const STRONG_OF_OUR_OWN: &str = "gapless";

/// What a relation is, why that cannot be replicated, and what can be done.
type Objection = (&'static str, PgSqlErrorCode, &'static str, &'static str);

/// Refuse what cannot be replicated.
pub fn check(relation: &Relation) -> Result<(), UserError> {
    let partition = relation.class().relispartition.then_some((
        "table",
        UNSUPPORTED,
        "It is a partition, and a partitioned table is replicated as a whole.",
        "Replicate the partitioned table, or detach the partition first.",
    ));
    let heir = !relation.class().relispartition && !catalog::parents(relation.oid()).is_empty();
    let heir = heir.then_some((
        "table",
        UNSUPPORTED,
        "It inherits from another table, and a hierarchy is replicated as a whole.",
        "Replicate the table at its top, or ALTER TABLE … NO INHERIT first.",
    ));
    refuse(relation, partition.or(heir))?;
    check_member(relation)?;
    portable::check(vec![relation.oid()])
}

/// The same for a table that may be part of a hierarchy that is replicated as a whole.
pub fn check_member(relation: &Relation) -> Result<(), UserError> {
    let class = relation.class();
    let objection = by_kind(class.relkind as u8)
        .or_else(|| by_persistence(class.relpersistence as u8))
        .or_else(|| by_place(relation))
        .or_else(|| by_names(relation));
    refuse(relation, objection)
}

fn refuse(relation: &Relation, objection: Option<Objection>) -> Result<(), UserError> {
    match objection {
        None => Ok(()),
        Some((what, code, detail, hint)) => {
            let message = format!("cannot replicate {what} \"{}\"", name_text(&relation.class().relname));
            Err(UserError::new(code, message, detail, hint))
        }
    }
}

fn by_kind(kind: u8) -> Option<Objection> {
    let behind = "Replicate the tables behind it.";
    match kind {
        pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE => None,
        pg_sys::RELKIND_VIEW => Some(("view", WRONG_TYPE, ORDINARY_ONLY, behind)),
        pg_sys::RELKIND_MATVIEW => Some(("materialized view", WRONG_TYPE, ORDINARY_ONLY, behind)),
        pg_sys::RELKIND_INDEX | pg_sys::RELKIND_PARTITIONED_INDEX => {
            Some(("index", WRONG_TYPE, ORDINARY_ONLY, "Replicate its table."))
        }
        pg_sys::RELKIND_SEQUENCE => {
            let hint = "A sequence follows the table whose column owns it.";
            Some(("sequence", WRONG_TYPE, ORDINARY_ONLY, hint))
        }
        pg_sys::RELKIND_FOREIGN_TABLE => {
            let hint = "Replicate the table there, or copy its rows into an ordinary table.";
            Some(("foreign table", UNSUPPORTED, "Its rows are on another server.", hint))
        }
        _ => Some(("relation", WRONG_TYPE, ORDINARY_ONLY, "Give the name of a table.")),
    }
}

fn by_persistence(persistence: u8) -> Option<Objection> {
    match persistence {
        pg_sys::RELPERSISTENCE_TEMP => {
            let hint = "Create it without TEMPORARY.";
            Some(("temporary table", UNSUPPORTED, "It belongs to one session.", hint))
        }
        pg_sys::RELPERSISTENCE_UNLOGGED => {
            let hint = "ALTER TABLE … SET LOGGED first.";
            Some((
                "unlogged table",
                UNSUPPORTED,
                "A crash would empty it on one node.",
                hint,
            ))
        }
        _ => None,
    }
}

/// Names travel in UTF-8 and are not converted.
fn by_names(relation: &Relation) -> Option<Objection> {
    let columns = (0..relation.attribute_count()).map(|index| name_text(&relation.attribute(index).attname));
    let mut names = columns.chain([relation.schema(), relation.name()]);
    (!encoding::is_utf8() && names.any(|name| !name.is_ascii())).then_some((
        "table",
        UNSUPPORTED,
        "It or a column has a name with other than ASCII characters, in a database that is not in UTF-8.",
        "Rename it, or use databases in UTF-8.",
    ))
}

fn by_place(relation: &Relation) -> Option<Objection> {
    let class = relation.class();
    let ours = relation.schema() == "synod" && relation.name() != STRONG_OF_OUR_OWN;
    if u32::from(relation.oid()) < pg_sys::FirstNormalObjectId || ours {
        let detail = "It belongs to the server or to the extension.";
        return Some((
            "system table",
            UNSUPPORTED,
            detail,
            "Replicate tables of your own only.",
        ));
    }
    if class.relam != pg_sys::HEAP_TABLE_AM_OID && !hierarchy::is_partitioned(relation) {
        let hint = "ALTER TABLE … SET ACCESS METHOD heap first.";
        return Some(("table", UNSUPPORTED, "Its access method is not heap.", hint));
    }
    None
}
