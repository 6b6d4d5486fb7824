//! A change as a statement for the target.
//!
//! Identity-aware: an UPDATE or DELETE names the row by its primary key, else by its replica identity, and must hit exactly one.
//! Pure; values stand in the text as literals, whose type is that of the column they meet.

use synod_change::stream::literal::Comparison;
use synod_change::stream::{Change, Column, Emptied, ReplicaIdentity, Table};
use synod_change::{Row, Value};

use super::mapping::Mapping;
use crate::stream::source::identifier;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Rows of one table: the head of an INSERT, and one tuple. Those with the same head can be run as one.
    Insert {
        /// `INSERT INTO ... VALUES `
        head: String,
        /// `('1', ...)`
        tuple: String,
    },
    /// Must affect this many rows.
    Run {
        /// The statement.
        sql: String,
        /// The rows.
        rows: u64,
    },
    /// Statements that may affect any number of rows.
    Several(Vec<String>),
    /// Nothing is to be done.
    Nothing,
}

/// The statement of a change, or why there is none.
pub fn of(change: &Change<'_>, mapping: &Mapping) -> Result<Statement, String> {
    match change {
        Change::Insert { table, new, .. } => insert(table, *new, mapping),
        Change::Update { table, old, new, .. } => update(table, *old, *new, mapping),
        Change::Delete { table, old, .. } => {
            let row = place(table, *old, None, mapping)?;
            let sql = format!("DELETE FROM {} WHERE {row}", mapping.table(table));
            Ok(Statement::Run { sql, rows: 1 })
        }
        Change::Truncate {
            tables,
            restart_identity,
            ..
        } => Ok(truncate(tables, *restart_identity, mapping)),
    }
}

/// A row that a filter lets come into view by an update may lack what did not change.
fn insert(table: &Table, new: Row<'_>, mapping: &Mapping) -> Result<Statement, String> {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (column, value) in table.columns.iter().zip(new.iter()) {
        if !column.generated {
            if value == Value::Same {
                return Err(not_in_wal(table, column));
            }
            names.push(name(column));
            values.push(literal(value));
        }
    }
    if let Some((column, value)) = mapping.source() {
        names.push(column);
        values.push(value);
    }
    let into = mapping.table(table);
    if names.is_empty() {
        return Ok(Statement::Run {
            sql: format!("INSERT INTO {into} DEFAULT VALUES"),
            rows: 1,
        });
    }
    Ok(Statement::Insert {
        head: format!(
            "INSERT INTO {into} ({}) OVERRIDING SYSTEM VALUE VALUES ",
            names.join(", ")
        ),
        tuple: format!("({})", values.join(", ")),
    })
}

fn update(table: &Table, old: Option<Row<'_>>, new: Row<'_>, mapping: &Mapping) -> Result<Statement, String> {
    // A column GENERATED ALWAYS AS IDENTITY takes no value, so it is left alone where it is known to be as before.
    let as_before = |index: usize, column: &Column, value: Value<'_>| {
        column.in_identity && old.is_none_or(|old| old.get(index) == Some(value))
    };
    let changed = |index: usize, column: &Column, value: Value<'_>| {
        let fixed = column.identity == Some('a') && as_before(index, column, value);
        !column.generated && !fixed && value != Value::Same
    };
    let set: Vec<String> = table
        .columns
        .iter()
        .zip(new.iter())
        .enumerate()
        .filter(|(index, (column, value))| changed(*index, column, *value))
        .map(|(_, (column, value))| format!("{} = {}", name(column), literal(value)))
        .collect();
    let row = place(table, old, Some(new), mapping)?;
    if set.is_empty() {
        return Ok(Statement::Nothing);
    }
    let sql = format!("UPDATE {} SET {} WHERE {row}", mapping.table(table), set.join(", "));
    Ok(Statement::Run { sql, rows: 1 })
}

/// Which row: a condition that one row meets.
fn place(table: &Table, old: Option<Row<'_>>, new: Option<Row<'_>>, mapping: &Mapping) -> Result<String, String> {
    let primary = table.columns.iter().any(|column| column.in_primary_key);
    let whole = table.identity == ReplicaIdentity::Full && !primary;
    // With an index as identity the old version has that index' columns, not those of the primary key.
    let by_primary = primary && matches!(table.identity, ReplicaIdentity::Default | ReplicaIdentity::Full);
    let names_it = |column: &Column| {
        if whole {
            !column.generated
        } else if by_primary {
            column.in_primary_key
        } else {
            column.in_identity
        }
    };
    // An UPDATE that leaves the identity as it is comes without an old version: the new one has it.
    let row = old
        .or(new.filter(|_| !whole))
        .filter(|_| !table.identity_hidden)
        .ok_or_else(|| nothing_says_which(table))?;
    let mut conditions: Vec<String> = Vec::new();
    for (column, value) in table
        .columns
        .iter()
        .zip(row.iter())
        .filter(|(column, _)| names_it(column))
    {
        let name = name(column);
        let text = match value {
            Value::Null if whole => {
                conditions.push(format!("{name} IS NOT DISTINCT FROM NULL"));
                continue;
            }
            Value::Null | Value::Same => return Err(nothing_says_which(table)),
            Value::Text(text) | Value::Binary(text) => text,
        };
        let comparison = match whole {
            true => Comparison::exact(column, name.as_bytes()),
            false => Comparison::of_key(column, name.as_bytes()),
        };
        let [left, after] = [&comparison.left, &comparison.after].map(|part| String::from_utf8_lossy(part));
        conditions.push(format!("{left} = {}{after}", literal(value)));
        if comparison.is_ambiguous(text) {
            conditions.push(format!("{name} IS DISTINCT FROM NULL"));
        }
    }
    if conditions.is_empty() {
        return Err(nothing_says_which(table));
    }
    if let Some((column, value)) = mapping.source() {
        conditions.push(format!("{column} = {value}"));
    }
    let conditions = conditions.join(" AND ");
    if whole {
        // Rows may be equal: one of them, whichever.
        let table = mapping.table(table);
        return Ok(format!(
            "(tableoid, ctid) = (SELECT tableoid, ctid FROM {table} WHERE {conditions} LIMIT 1)"
        ));
    }
    Ok(conditions)
}

fn not_in_wal(table: &Table, column: &Column) -> String {
    let [schema, table, column] = [&table.schema, &table.name, &column.name].map(|name| String::from_utf8_lossy(name));
    format!(
        "column \"{column}\" of a row of table {schema}.{table} that came into view did not change and is not in the WAL: the table needs \
         REPLICA IDENTITY FULL where the stream comes from"
    )
}

fn nothing_says_which(table: &Table) -> String {
    format!(
        "nothing says which row it was: table {}.{} has no replica identity in the stream",
        String::from_utf8_lossy(&table.schema),
        String::from_utf8_lossy(&table.name)
    )
}

/// Only what the source has told of is emptied: no CASCADE. Where tables hold rows of several sources, only those of this one.
fn truncate(tables: &[Emptied<'_>], restart_identity: bool, mapping: &Mapping) -> Statement {
    let names: Vec<String> = tables.iter().map(|emptied| mapping.table(emptied.table)).collect();
    let statements = match mapping.source() {
        Some((column, value)) => {
            let deletes: Vec<String> = names
                .iter()
                .map(|name| format!("DELETE FROM {name} WHERE {column} = {value}"))
                .collect();
            deletes
        }
        None => {
            let restart = if restart_identity { " RESTART IDENTITY" } else { "" };
            vec![format!("TRUNCATE {}{restart}", names.join(", "))]
        }
    };
    Statement::Several(statements)
}

fn name(column: &Column) -> String {
    identifier(&String::from_utf8_lossy(&column.name))
}

fn literal(value: Value<'_>) -> String {
    match value {
        Value::Text(text) | Value::Binary(text) => crate::stream::source::literal(&String::from_utf8_lossy(text)),
        Value::Null | Value::Same => "NULL".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_name: &str, key: bool) -> Column {
        Column {
            name: name.into(),
            type_name: type_name.into(),
            in_primary_key: key,
            in_identity: key,
            ..Column::default()
        }
    }

    fn table(columns: Vec<Column>, identity: ReplicaIdentity) -> Table {
        Table {
            schema: "s".into(),
            name: "t".into(),
            columns,
            identity,
            ..Table::default()
        }
    }

    fn run(change: &Change<'_>, mapping: &Mapping) -> String {
        match of(change, mapping) {
            Ok(Statement::Insert { head, tuple }) => head + &tuple,
            Ok(Statement::Run { sql, .. }) => sql,
            Ok(Statement::Several(statements)) => statements.join("; "),
            Ok(Statement::Nothing) => "nothing".into(),
            Err(why) => why,
        }
    }

    #[test]
    fn rows_are_named_by_their_key() {
        let mut generated = column("twice", "integer", false);
        generated.generated = true;
        let table = table(
            vec![
                column("id", "integer", true),
                column("wh\"at", "text", false),
                generated,
            ],
            ReplicaIdentity::Default,
        );
        let row = |values: &'static [Value<'static>]| Row::new(values);
        let new = row(&[Value::Text(b"2"), Value::Text(b"it's"), Value::Text(b"4")]);
        let old = row(&[Value::Text(b"1"), Value::Null, Value::Null]);
        let plain = Mapping::default();
        let table = &table;
        let insert = Change::Insert { table, new };
        assert_eq!(
            run(&insert, &plain),
            "INSERT INTO \"s\".\"t\" (\"id\", \"wh\"\"at\") OVERRIDING SYSTEM VALUE VALUES ('2', 'it''s')"
        );
        let update = Change::Update {
            table,
            old: Some(old),
            new,
        };
        assert_eq!(
            run(&update, &plain),
            "UPDATE \"s\".\"t\" SET \"id\" = '2', \"wh\"\"at\" = 'it''s' WHERE \"id\" = '1'"
        );
        let same = row(&[Value::Text(b"2"), Value::Same, Value::Text(b"4")]);
        let update = Change::Update {
            table,
            old: None,
            new: same,
        };
        assert_eq!(
            run(&update, &plain),
            "UPDATE \"s\".\"t\" SET \"id\" = '2' WHERE \"id\" = '2'"
        );
        let rolled_up = Mapping {
            schema: Some("all".into()),
            source: Some(("from".into(), "a'b".into())),
            ..Mapping::default()
        };
        let delete = Change::Delete { table, old: Some(old) };
        assert_eq!(
            run(&delete, &rolled_up),
            "DELETE FROM \"all\".\"t\" WHERE \"id\" = '1' AND \"from\" = 'a''b'"
        );
        let truncate = Change::Truncate {
            tables: &[Emptied { table, later: 0 }],
            cascade: true,
            restart_identity: true,
        };
        assert_eq!(run(&truncate, &plain), "TRUNCATE \"s\".\"t\" RESTART IDENTITY");
        assert_eq!(
            run(&truncate, &rolled_up),
            "DELETE FROM \"all\".\"t\" WHERE \"from\" = 'a''b'"
        );
        let lost = Change::Delete { table, old: None };
        assert!(run(&lost, &plain).starts_with("nothing says which row"));
    }

    #[test]
    fn without_a_key_the_whole_row_names_one_of_its_equals() {
        let table = table(
            vec![column("a", "integer", false), column("j", "json", false)],
            ReplicaIdentity::Full,
        );
        let old = [Value::Null, Value::Text(b"{}")];
        let delete = Change::Delete {
            table: &table,
            old: Some(Row::new(&old)),
        };
        assert_eq!(
            run(&delete, &Mapping::default()),
            "DELETE FROM \"s\".\"t\" WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM \"s\".\"t\" WHERE \
             \"a\" IS NOT DISTINCT FROM NULL AND pg_catalog.format('%s', \"j\") COLLATE pg_catalog.\"C\" = '{}' LIMIT 1)"
        );
    }
}
