//! Rows as statements.

use super::Sql;
use super::prepared::{Identity, Prepared, PreparedColumn};
use super::quote::put_literal;
use crate::stream::{Change, Emptied, TypeClass};
use crate::{Row, Value};

impl Sql {
    pub(super) fn change(&mut self, change: &Change<'_>, out: &mut Vec<u8>) {
        let (operation, table, old, new) = match *change {
            Change::Insert { table, new } => ("INSERT", table, None, Some(new)),
            Change::Update { table, old, new } => ("UPDATE", table, old, Some(new)),
            Change::Delete { table, old } => ("DELETE", table, old, None),
            Change::Truncate {
                tables,
                cascade,
                restart_identity,
            } => return self.truncate(tables, cascade, restart_identity, out),
        };
        self.settings_for(table, out);
        let check = self.check_rows;
        let prepared = self.tables.get(table.version, || Prepared::new(table));
        let start = out.len();
        let written = match (operation, new, old.or(new)) {
            ("INSERT", Some(new), _) => insert(prepared, new, out),
            ("DELETE", _, Some(old)) => delete(prepared, old, check, out),
            ("UPDATE", Some(new), Some(by)) => update(prepared, old, by, new, check, out),
            _ => Err("its old version is not in the WAL"),
        };
        if let Err(why) = written {
            out.truncate(start);
            self.unidentified(operation, table, why, out);
        }
    }

    fn truncate(&mut self, tables: &[Emptied<'_>], cascade: bool, restart_identity: bool, out: &mut Vec<u8>) {
        for (number, Emptied { table, .. }) in tables.iter().enumerate() {
            out.extend_from_slice(if number > 0 { b", " } else { b"TRUNCATE " });
            out.extend_from_slice(&self.tables.get(table.version, || Prepared::new(table)).only);
        }
        if tables.is_empty() {
            return;
        }
        if restart_identity {
            out.extend_from_slice(b" RESTART IDENTITY");
        }
        if cascade {
            out.extend_from_slice(b" CASCADE");
        }
        out.extend_from_slice(b";\n");
    }
}

/// A row that a filter lets come into view by an update may lack what did not change.
fn insert(prepared: &Prepared, new: Row<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.extend_from_slice(b"INSERT INTO ");
    out.extend_from_slice(&prepared.name);
    out.extend_from_slice(&prepared.insert);
    if prepared.insert.is_empty() {
        out.extend_from_slice(b" DEFAULT VALUES;\n");
        return Ok(());
    }
    out.extend_from_slice(b" VALUES (");
    let mut separator: &[u8] = b"";
    for (column, value) in prepared.columns.iter().zip(new.iter()) {
        if !column.generated {
            if value == Value::Same {
                return Err("a value that did not change is not in the WAL");
            }
            out.extend_from_slice(separator);
            put_value(out, column, value);
            separator = b", ";
        }
    }
    out.extend_from_slice(b");\n");
    Ok(())
}

fn delete(prepared: &Prepared, old: Row<'_>, check: bool, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if check {
        out.extend_from_slice(HIT);
    }
    out.extend_from_slice(b"DELETE FROM ");
    out.extend_from_slice(&prepared.only);
    put_where(prepared, old, out)?;
    end("DELETE", prepared, check, out);
    Ok(())
}

/// The rows that a statement hits are counted from here on.
const HIT: &[u8] = b"WITH hit AS (";

/// Any number of rows but one, in words, is no integer: plain SQL that fails and says why. No rows come of one that is right.
fn end(operation: &str, prepared: &Prepared, check: bool, out: &mut Vec<u8>) {
    if check {
        let what = [operation.as_bytes(), b" of a row of ", &prepared.name, b" hits "].concat();
        out.extend_from_slice(b" RETURNING 1) SELECT pg_catalog.concat(");
        put_literal(out, &what);
        out.extend_from_slice(
            b", pg_catalog.count(*), ' rows')::pg_catalog.int4 FROM hit HAVING pg_catalog.count(*) <> 1",
        );
    }
    out.extend_from_slice(b";\n");
}

/// `by` finds the row: its old version, or the new one if what identifies it did not change.
fn update(
    prepared: &Prepared,
    old: Option<Row<'_>>,
    by: Row<'_>,
    new: Row<'_>,
    check: bool,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    if old.is_some_and(|old| changes_always(prepared, old, new)) {
        return replace(prepared, by, new, Replaced::Always { check }, out);
    }
    if prepared.has_loose_always {
        replace(prepared, by, new, Replaced::IfNeeded, out)?;
    }
    let start = out.len();
    if check {
        out.extend_from_slice(HIT);
    }
    out.extend_from_slice(b"UPDATE ");
    out.extend_from_slice(&prepared.only);
    out.extend_from_slice(b" SET ");
    let mut separator: &[u8] = b"";
    for (column, value) in prepared.columns.iter().zip(new.iter()) {
        let as_it_was = value == Value::Same || column.identifies && old.is_none();
        if column.generated || column.always || as_it_was {
            continue;
        }
        out.extend_from_slice(separator);
        out.extend_from_slice(&column.name);
        out.extend_from_slice(b" = ");
        put_value(out, column, value);
        separator = b", ";
    }
    put_where(prepared, by, out)?;
    if separator.is_empty() {
        // Nothing that can be written changed.
        out.truncate(start);
    } else {
        end("UPDATE", prepared, check, out);
    }
    Ok(())
}

/// A value that cannot be set, only inserted, is another one.
fn changes_always(prepared: &Prepared, old: Row<'_>, new: Row<'_>) -> bool {
    let mut columns = prepared.columns.iter().zip(old.iter().zip(new.iter()));
    columns.any(|(column, (old, new))| column.always && column.identifies && new != Value::Same && old != new)
}

/// When a row is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replaced {
    /// `check`: it must be there.
    Always { check: bool },
    /// If a value that can only be inserted, and of which the WAL has no old version, is another one.
    IfNeeded,
}

/// A delete and an insert in one statement, with what did not change from the row that goes.
fn replace(
    prepared: &Prepared,
    by: Row<'_>,
    new: Row<'_>,
    when: Replaced,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    out.extend_from_slice(b"WITH old AS (DELETE FROM ");
    out.extend_from_slice(&prepared.only);
    put_where(prepared, by, out)?;
    if when == Replaced::IfNeeded {
        let mut separator: &[u8] = b" AND (";
        for (column, value) in prepared.columns.iter().zip(new.iter()) {
            if column.always && !column.identifies {
                out.extend_from_slice(separator);
                out.extend_from_slice(&column.name);
                out.extend_from_slice(b" <> ");
                put_value(out, column, value);
                separator = b" OR ";
            }
        }
        out.push(b')');
    }
    let check = when == Replaced::Always { check: true };
    out.extend_from_slice(if check {
        b" RETURNING *), hit AS (INSERT INTO "
    } else {
        b" RETURNING *) INSERT INTO "
    });
    out.extend_from_slice(&prepared.name);
    out.extend_from_slice(&prepared.insert);
    out.extend_from_slice(b" SELECT ");
    let mut separator: &[u8] = b"";
    for (column, value) in prepared.columns.iter().zip(new.iter()) {
        if column.generated {
            continue;
        }
        out.extend_from_slice(separator);
        if value == Value::Same {
            out.extend_from_slice(b"old.");
            out.extend_from_slice(&column.name);
        } else {
            put_value(out, column, value);
        }
        separator = b", ";
    }
    out.extend_from_slice(b" FROM old");
    end("UPDATE", prepared, check, out);
    Ok(())
}

/// The one row: by its key, or one of those that have all its values.
fn put_where(prepared: &Prepared, row: Row<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    match prepared.identity {
        Identity::Nothing(why) => return Err(why),
        Identity::Key => {
            out.extend_from_slice(b" WHERE ");
            put_conditions(prepared, row, out)?;
        }
        Identity::WholeRow => {
            let (place, selected): (&[u8], &[u8]) = if prepared.partitioned {
                (b"(tableoid, ctid)", b"tableoid, ctid")
            } else {
                (b"ctid", b"ctid")
            };
            out.extend_from_slice(b" WHERE ");
            out.extend_from_slice(place);
            out.extend_from_slice(b" = (SELECT ");
            out.extend_from_slice(selected);
            out.extend_from_slice(b" FROM ");
            out.extend_from_slice(&prepared.only);
            out.extend_from_slice(b" WHERE ");
            put_conditions(prepared, row, out)?;
            out.extend_from_slice(b" LIMIT 1)");
        }
    }
    Ok(())
}

fn put_conditions(prepared: &Prepared, row: Row<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut separator: &[u8] = b"";
    for (column, value) in prepared.columns.iter().zip(row.iter()) {
        if !column.identifies {
            continue;
        }
        out.extend_from_slice(separator);
        separator = b" AND ";
        match value {
            Value::Same => return Err("a value that identifies it is not in the WAL"),
            Value::Null => {
                out.extend_from_slice(&column.name);
                // A row of NULLs "IS NULL", too.
                out.extend_from_slice(b" IS NOT DISTINCT FROM NULL");
            }
            Value::Text(text) | Value::Binary(text) => {
                out.extend_from_slice(&column.comparison.left);
                out.extend_from_slice(b" = ");
                put_value(out, column, value);
                out.extend_from_slice(&column.comparison.after);
                if column.comparison.is_ambiguous(text) {
                    out.extend_from_slice(b" AND ");
                    out.extend_from_slice(&column.name);
                    out.extend_from_slice(b" IS DISTINCT FROM NULL");
                }
            }
        }
    }
    if separator.is_empty() {
        // A table of generated columns only, or of none: any row is like the other.
        out.extend_from_slice(b"true");
    }
    Ok(())
}

/// A literal of unknown type, which takes that of its column: a number with a point would be `numeric`, and equal to no `real`.
fn put_value(out: &mut Vec<u8>, column: &PreparedColumn, value: Value<'_>) {
    let text = match value {
        Value::Text(text) | Value::Binary(text) => text,
        Value::Null | Value::Same => return out.extend_from_slice(b"NULL"),
    };
    match column.class {
        TypeClass::Integer => out.extend_from_slice(text),
        TypeClass::Boolean => out.extend_from_slice(if text == b"t" { b"true" } else { b"false" }),
        _ => put_literal(out, text),
    }
}
