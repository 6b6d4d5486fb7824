//! Keeps the tables of the initial snapshot as they are while it is read.
//!
//! The snapshot is older than any lock that can be taken with it. What is rewritten or emptied between the two has no rows in the
//! snapshot any more (a new heap holds only rows that are too young for it), and renamed columns are read under today's names; neither
//! is an error of the server. So all tables are locked first, as `pg_dump` does, and then compared:
//!
//! ```text
//! shape in the snapshot = shape after the lock => it stays so until the transaction ends
//! ```
//!
//! Otherwise the snapshot begins anew, with another slot; nothing of it has been told yet.

use std::fmt::Write as _;

use super::Read;
use crate::failure::Failure;
use crate::session::{Row, Session};
use crate::stream::engine::End;
use crate::stream::{again_or_not, source::Source};

/// A table was dropped or renamed meanwhile, its schema was, or somebody who changes it waits for us.
const CHANGED: [&str; 3] = ["42P01", "3F000", "40P01"];

/// Lock all of them, and see that they are what the snapshot shows. `source`: another session, which sees what is now.
pub fn hold(session: &mut Session, source: &mut Source, tables: &[Read]) -> Result<(), End> {
    if tables.is_empty() {
        return Ok(());
    }
    // Not LOCK TABLE: that takes more than the right to read some of the columns.
    let mut locks = String::new();
    for Read { table, .. } in tables {
        let only = if table.partitioned { "" } else { "ONLY " };
        let name = String::from_utf8_lossy(&table.quoted_name);
        let _ = write!(locks, "SELECT FROM {only}{name} LIMIT 0;");
    }
    session.execute(&locks).map_err(|failure| {
        let changed = failure.sqlstate.as_deref().is_some_and(|code| CHANGED.contains(&code));
        if changed {
            anew(&failure.message)
        } else {
            again_or_not(failure)
        }
    })?;
    let sql = shapes(tables);
    let then = session.query(&sql).map_err(again_or_not)?;
    let now = source.session.query(&sql).map_err(again_or_not)?;
    match then
        .iter()
        .find(|row| !now.contains(row))
        .or_else(|| now.iter().find(|row| !then.contains(row)))
    {
        Some(row) => Err(anew(&format!("table {} was changed meanwhile", name(row)))),
        None => Ok(()),
    }
}

/// Name, storage and columns of each, partitions too.
fn shapes(tables: &[Read]) -> String {
    let oids: Vec<String> = tables.iter().map(|read| read.table.oid.to_string()).collect();
    format!(
        "WITH RECURSIVE told AS ( \
              SELECT c.oid, c.relkind FROM pg_catalog.pg_class AS c WHERE c.oid IN ({}) \
               UNION \
              SELECT c.oid, c.relkind FROM told AS t JOIN pg_catalog.pg_inherits AS i ON i.inhparent = t.oid \
                JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid WHERE t.relkind = 'p') \
         SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.oid, c.relfilenode, \
                (SELECT pg_catalog.string_agg(pg_catalog.format('%s %I %s %s', a.attnum, a.attname, a.atttypid, a.atttypmod), ',' \
                                              ORDER BY a.attnum) \
                   FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0) \
           FROM told JOIN pg_catalog.pg_class AS c ON c.oid = told.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace",
        oids.join(", ")
    )
}

fn name(row: &Row) -> &str {
    row.first().and_then(Option::as_deref).unwrap_or_default()
}

fn anew(why: &str) -> End {
    End::Again(Failure::new(format!("the initial snapshot begins anew: {why}"), "", ""))
}
