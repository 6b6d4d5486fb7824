//! What only this node has and what is in the way of another node's statement: a view that depends on a column that is dropped, say.
//!
//! Looked for when a statement has failed, in the transaction in which it did, where the definitions are those that it met. As
//! `findDependentObjects` (catalog/dependency.c) does it: what goes along by itself is followed, what depends on it is in the way. The
//! apply worker makes way where it can (`apply_worker/make_way.rs`), and else tells what there is to be done.

use std::cell::RefCell;
use std::ffi::CString;

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::DdlStatement;

use super::{makes, plan, replay, types};
use crate::pg::relcache::c_text;
use crate::pg::{catalog, guard, hierarchy, list};

/// A part of an object of the catalogs: its class, its number, and the column's; 0: all of it.
type Part = (pg_sys::Oid, pg_sys::Oid, i32);

thread_local! {
    static FOUND: RefCell<Vec<Obstacle>> = const { RefCell::new(Vec::new()) };
}

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// As the server names them: `view`, `public.v`.
    pub kind: String,
    /// Which one.
    pub name: String,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    /// The schema of the session whose temporary object it is; InvalidOid: it is not temporary.
    schema: pg_sys::Oid,
}

/// Of $1 (classes), $2 (objects) and $3 (columns), which the statement drops or alters: what would not go along. A rule is named by its
/// view, and what is temporary has a schema.
const QUERY: &str = r"
WITH RECURSIVE going (classid, objid, part) AS (
    SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS named (classid, objid, part)
    UNION
    SELECT d.classid, d.objid, d.objsubid FROM going g JOIN pg_catalog.pg_depend d
        ON d.refclassid = g.classid AND d.refobjid = g.objid AND (g.part = 0 OR d.refobjsubid = g.part)
    WHERE d.deptype IN ('a', 'i', 'P', 'S')
), staying AS (
    SELECT d.classid, d.objid, d.objsubid FROM going g JOIN pg_catalog.pg_depend d
        ON d.refclassid = g.classid AND d.refobjid = g.objid AND (g.part = 0 OR d.refobjsubid = g.part)
    WHERE d.deptype = 'n'
      AND NOT EXISTS (SELECT FROM going o WHERE o.classid = d.classid AND o.objid = d.objid AND o.part IN (0, d.objsubid))
), named AS (
    SELECT DISTINCT coalesce(i.refclassid, s.classid) AS classid, coalesce(i.refobjid, s.objid) AS objid,
                    CASE WHEN i.refobjid IS NULL THEN s.objsubid ELSE 0 END AS objsubid
    FROM staying s LEFT JOIN pg_catalog.pg_depend i ON i.classid = s.classid AND i.objid = s.objid AND i.deptype = 'i'
      AND s.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
), placed AS (
    SELECT n.*, coalesce(
        (SELECT relnamespace FROM pg_catalog.pg_class WHERE n.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND oid = n.objid),
        (SELECT typnamespace FROM pg_catalog.pg_type WHERE n.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND oid = n.objid),
        (SELECT pronamespace FROM pg_catalog.pg_proc WHERE n.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND oid = n.objid),
        (SELECT relnamespace FROM pg_catalog.pg_attrdef a JOIN pg_catalog.pg_class c ON c.oid = adrelid
         WHERE n.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND a.oid = n.objid),
        (SELECT connamespace FROM pg_catalog.pg_constraint
         WHERE n.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND oid = n.objid),
        (SELECT relnamespace FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = tgrelid
         WHERE n.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND t.oid = n.objid),
        (SELECT relnamespace FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = polrelid
         WHERE n.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND p.oid = n.objid)) AS place
    FROM named n
)
SELECT pg_catalog.array_agg(a.type ORDER BY a.type, a.identity), pg_catalog.array_agg(a.identity ORDER BY a.type, a.identity),
       pg_catalog.array_agg(pg_catalog.concat_ws(' ', p.classid, p.objid, coalesce(t.oid, 0)) ORDER BY a.type, a.identity)
FROM placed p CROSS JOIN LATERAL pg_catalog.pg_identify_object(p.classid, p.objid, p.objsubid) AS a
     LEFT JOIN pg_catalog.pg_namespace t ON t.oid = p.place AND t.nspname ~ '^pg_temp_'
WHERE t.oid IS NOT NULL OR NOT $4";

impl Obstacle {
    /// Whether it is a session's own.
    pub fn is_temporary(&self) -> bool {
        self.schema != pg_sys::InvalidOid
    }

    /// The number and id of the process whose temporary object it is; nothing when it is nobody's any more.
    pub fn holder(&self) -> Option<(i32, i32)> {
        let database = crate::pg::server::database();
        (0..crate::pg::shmem::slots().len() as i32).find_map(|number| {
            // SAFETY: PGPROCs live as long as the server; what they say is looked at once more by whoever is meant.
            let (pid, here, schema) = unsafe {
                let process = crate::pg::latch::process(number);
                (
                    std::ptr::read_volatile(&raw const (*process).pid),
                    u32::from(std::ptr::read_volatile(&raw const (*process).databaseId)),
                    std::ptr::read_volatile(&raw const (*process).tempNamespaceId),
                )
            };
            let holds = here == database && schema == self.schema && crate::pg::server::alive(pid);
            holds.then_some((number, pid))
        })
    }

    /// Drop it. It is nobody's temporary object, which the server leaves lying until a session takes its place.
    pub fn drop_it(&self) {
        let address = pg_sys::ObjectAddress {
            classId: self.class,
            objectId: self.object,
            objectSubId: 0,
        };
        let flags = pg_sys::PERFORM_DELETION_INTERNAL
            | pg_sys::PERFORM_DELETION_QUIETLY
            | pg_sys::PERFORM_DELETION_SKIP_EXTENSIONS;
        // SAFETY: inside a transaction; what is not there any more is an error of the server.
        unsafe { pg_sys::performDeletion(&address, pg_sys::DropBehavior::DROP_CASCADE, flags as i32) }
    }

    /// The statement that takes it out of the way.
    pub fn command(&self) -> Option<String> {
        let name = &self.name;
        let part = |separator: &str| name.rsplit_once(separator);
        let command = match self.kind.as_str() {
            "statistics object" => format!("DROP STATISTICS {name}"),
            "publication relation" => {
                let (table, publication) = part(" in publication ")?;
                format!("ALTER PUBLICATION {publication} DROP TABLE {table}")
            }
            "table constraint" => {
                let (constraint, table) = part(" on ")?;
                format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}")
            }
            "table column" => {
                let (table, column) = part(".")?;
                format!("ALTER TABLE {table} DROP COLUMN {column}")
            }
            "default value" => {
                let (table, column) = name.strip_prefix("for ")?.rsplit_once('.')?;
                format!("ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT")
            }
            kind if DROPPED_BY_NAME.contains(&kind) => format!("DROP {} {name}", kind.to_uppercase()),
            _ => return None,
        };
        Some(command)
    }
}

/// Kinds for which the server's name for an object is what DROP takes.
const DROPPED_BY_NAME: [&str; 15] = [
    "table",
    "view",
    "materialized view",
    "foreign table",
    "index",
    "sequence",
    "function",
    "procedure",
    "aggregate",
    "operator",
    "type",
    "rule",
    "trigger",
    "policy",
    "cast",
];

/// What was found for the statement that failed last, for whoever makes way.
pub fn take() -> Vec<Obstacle> {
    FOUND.take()
}

/// What is in the way of a statement that failed with this error; it is kept for [`take`]. Inside a transaction. `None`: it could not be
/// found out.
pub fn look(statement: &DdlStatement, code: PgSqlErrorCode) -> Option<bool> {
    FOUND.set(Vec::new());
    let looks = [
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        PgSqlErrorCode::ERRCODE_DUPLICATE_TABLE,
    ];
    if !looks.contains(&code) {
        return Some(false);
    }
    let found = replay::in_subtransaction(|| replay::under_its_settings(statement, || find(statement, code)));
    let found = found.ok()?;
    let any_temporary = found.iter().any(Obstacle::is_temporary);
    FOUND.set(found);
    Some(any_temporary)
}

fn find(statement: &DdlStatement, code: PgSqlErrorCode) -> Vec<Obstacle> {
    let text = CString::new(statement.text.as_str()).unwrap_or_default();
    // SAFETY: inside a transaction; the tree is of this memory context.
    let (parts, only_temporary) = unsafe {
        let parsed = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if list::length(parsed) != 1 {
            return Vec::new();
        }
        let node = (*list::pointer::<pg_sys::RawStmt>(parsed, 0)).stmt;
        if code == PgSqlErrorCode::ERRCODE_DUPLICATE_TABLE {
            return of_the_same_name(node).into_iter().collect();
        }
        (changed(node, code), (*node).type_ == pg_sys::NodeTag::T_AlterDomainStmt)
    };
    let (mut classes, mut objects, mut columns) = (Vec::new(), Vec::new(), Vec::new());
    for (class, object, column) in parts {
        classes.push(class);
        objects.push(object);
        columns.push(column);
    }
    let arguments = [classes.into(), objects.into(), columns.into(), only_temporary.into()];
    let found = pgrx::Spi::get_three_with_args::<Vec<String>, Vec<String>, Vec<String>>(QUERY, &arguments);
    let Ok((Some(kinds), Some(names), Some(numbers))) = found else {
        return Vec::new();
    };
    let named = kinds.into_iter().zip(names).zip(numbers);
    named
        .filter_map(|((kind, name), numbers)| obstacle(kind, name, &numbers))
        .collect()
}

fn obstacle(kind: String, name: String, numbers: &str) -> Option<Obstacle> {
    let mut numbers = numbers
        .split(' ')
        .map(|number| number.parse::<u32>().map(pg_sys::Oid::from));
    let mut next = || numbers.next()?.ok();
    Some(Obstacle {
        kind,
        name,
        class: next()?,
        object: next()?,
        schema: next()?,
    })
}

/// The relation that has the name that a new one was to get.
unsafe fn of_the_same_name(node: *mut pg_sys::Node) -> Option<Obstacle> {
    // SAFETY: the tag says what the pointer may be cast to; look-ups inside a transaction.
    unsafe {
        let taken = match makes::taken() {
            Some(taken) => taken,
            None if (*node).type_ == pg_sys::NodeTag::T_IndexStmt => {
                let index = &*node.cast::<pg_sys::IndexStmt>();
                let schema = pg_sys::get_rel_namespace(guard::named(index.relation)?);
                pg_sys::get_relname_relid(index.idxname.as_ref()?, schema)
            }
            None => return None,
        };
        let query = "SELECT a.type, a.identity FROM pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, $1, 0) AS a";
        match pgrx::Spi::get_two_with_args::<String, String>(query, &[taken.into()]) {
            Ok((Some(kind), Some(name))) => Some(Obstacle {
                kind,
                name,
                class: pg_sys::RelationRelationId,
                object: taken,
                schema: pg_sys::InvalidOid,
            }),
            _ => None,
        }
    }
}

/// What the statement drops or alters.
unsafe fn changed(node: *mut pg_sys::Node, code: PgSqlErrorCode) -> Vec<Part> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        match (*node).type_ {
            Tag::T_DropStmt => {
                let named = plan::dropped(&*node.cast::<pg_sys::DropStmt>());
                named.into_iter().map(|(class, object)| (class, object, 0)).collect()
            }
            Tag::T_AlterTableStmt => altered(&*node.cast(), code),
            Tag::T_AlterDomainStmt => {
                let domain = types::changed(node);
                domain
                    .map(|domain| (pg_sys::TypeRelationId, domain, 0))
                    .into_iter()
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The columns and constraints that are dropped or get another type, of the table and its heirs, and what their rows are of.
unsafe fn altered(statement: &pg_sys::AlterTableStmt, code: PgSqlErrorCode) -> Vec<Part> {
    use pg_sys::AlterTableType as Kind;
    let mut parts = Vec::new();
    // SAFETY: a valid statement; look-ups inside a transaction, which tell what is not there by 0.
    unsafe {
        let Some(oid) = guard::named(statement.relation) else {
            return parts;
        };
        let commands = list::pointers::<pg_sys::AlterTableCmd>(statement.cmds);
        for table in hierarchy::members(oid, pg_sys::NoLock) {
            for command in &commands {
                let command = &**command;
                match command.subtype {
                    Kind::AT_DropColumn | Kind::AT_AlterColumnType => {
                        let column = pg_sys::get_attnum(table, command.name);
                        if column > 0 {
                            parts.push((pg_sys::RelationRelationId, table, i32::from(column)));
                        }
                    }
                    Kind::AT_DropConstraint => {
                        let constraint = constraint(table, &c_text(command.name));
                        parts.extend(constraint.map(|constraint| (catalog::PG_CONSTRAINT, constraint, 0)));
                    }
                    _ => {}
                }
            }
            // Rewriting a table takes that no column anywhere is of its row type.
            if code == PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED
                || statement.objtype == pg_sys::ObjectType::OBJECT_TYPE
            {
                parts.push((pg_sys::TypeRelationId, pg_sys::get_rel_type_id(table), 0));
            }
        }
    }
    parts
}

fn constraint(table: pg_sys::Oid, name: &str) -> Option<pg_sys::Oid> {
    let query = "SELECT oid FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND conname = $2";
    pgrx::Spi::get_one_with_args(query, &[table.into(), name.into()]).ok()?
}
