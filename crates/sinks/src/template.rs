//! Names made of what an event is about: `cdc.{schema}.{table}`, `user:{id}`.

use synod_change::stream::{Change, Column, Event, Table};
use synod_change::{Row, Value};

/// A name with places to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Schema,
    Table,
    Operation,
    Key,
    Column(String),
}

impl Template {
    /// `{schema}`, `{table}`, `{op}`; with `rows` also `{key}`, the key's values with colons between, and `{column}` for a column of
    /// that name. `{{` and `}}` are braces.
    pub fn parse(text: &str, rows: bool) -> Result<Self, String> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let (name, after) = match rest.split_once('}') {
                Some(found) if brace == "{" => found,
                _ => return Err(format!("\"{text}\" has a brace without its partner")),
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(match name {
                "schema" => Part::Schema,
                "table" => Part::Table,
                "op" => Part::Operation,
                "key" if rows => Part::Key,
                _ if rows && !name.is_empty() => Part::Column(name.to_owned()),
                _ => {
                    return Err(format!(
                        "\"{text}\" has {{{name}}}, known are {{schema}}, {{table}} and {{op}}"
                    ));
                }
            });
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// For an event; `clean` makes a value fit to be part of a name.
    pub fn fill(&self, event: &Event<'_>, clean: fn(&str) -> String) -> String {
        let table = first_table(event);
        let named = |name: &[u8]| clean(&String::from_utf8_lossy(name));
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Schema => filled.push_str(&table.map_or_else(|| "_".into(), |table| named(&table.schema))),
                Part::Table => filled.push_str(&table.map_or_else(|| "_".into(), |table| named(&table.name))),
                Part::Operation => filled.push_str(operation(event)),
                Part::Key | Part::Column(_) => {}
            }
        }
        filled
    }

    /// For a row. `None`: the row does not have what is asked for.
    pub fn fill_row(&self, event: &Event<'_>, table: &Table, row: Row<'_>) -> Option<String> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Schema => filled.push_str(&String::from_utf8_lossy(&table.schema)),
                Part::Table => filled.push_str(&String::from_utf8_lossy(&table.name)),
                Part::Operation => filled.push_str(operation(event)),
                Part::Key => key(table, row, &mut filled)?,
                Part::Column(name) => {
                    let index = table.columns.iter().position(|column| column.name == name.as_bytes())?;
                    filled.push_str(&text(row.get(index)?)?);
                }
            }
        }
        Some(filled)
    }

    /// What a table lacks that is needed for the keys of all its changes, in a sentence: those of rows that are gone are made of the
    /// replica identity alone.
    pub fn lacks(&self, table: &Table) -> Option<String> {
        let primary = table.columns.iter().any(|column| column.in_primary_key);
        let told = |column: &&Column| column.in_identity;
        self.0.iter().find_map(|part| match part {
            Part::Key => {
                let of_key = |column: &&Column| {
                    if primary {
                        column.in_primary_key
                    } else {
                        column.in_identity
                    }
                };
                let mut key = table.columns.iter().filter(of_key).peekable();
                let whole = key.peek().is_some() && key.all(|column| told(&column));
                (!whole).then(|| "It has no key that its replica identity has, too.".to_owned())
            }
            Part::Column(name) => match table.columns.iter().find(|column| column.name == name.as_bytes()) {
                None => Some(format!("It has no column \"{name}\".")),
                Some(column) if !told(&column) => Some(format!(
                    "Column \"{name}\" is not in its replica identity: a change does not tell what it was before."
                )),
                Some(_) => None,
            },
            _ => None,
        })
    }

    /// Whether all that a table lacks is a key: what every row of it has in its name still tells which names may be those of its rows. A name
    /// that begins with a row's value tells nothing.
    pub fn lacks_only_key(&self, table: &Table) -> bool {
        let fixed = self
            .0
            .first()
            .is_some_and(|part| matches!(part, Part::Text(_) | Part::Schema | Part::Table));
        let others = Self(self.0.iter().filter(|part| **part != Part::Key).cloned().collect());
        fixed && others.lacks(table).is_none()
    }

    /// What matches every row of a table, for Redis: places for a row's values become `*`, everything else stands for itself.
    pub fn glob(&self, table: &Table) -> String {
        let mut glob = String::new();
        for part in &self.0 {
            let literal = match part {
                Part::Text(text) => text.as_str().into(),
                Part::Schema => String::from_utf8_lossy(&table.schema),
                Part::Table => String::from_utf8_lossy(&table.name),
                Part::Operation | Part::Key | Part::Column(_) => {
                    glob.push('*');
                    continue;
                }
            };
            for letter in literal.chars() {
                if matches!(letter, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
                    glob.push('\\');
                }
                glob.push(letter);
            }
        }
        glob
    }
}

/// The values of the key: of the primary key, else of the replica identity.
fn key(table: &Table, row: Row<'_>, out: &mut String) -> Option<()> {
    let primary = table.columns.iter().any(|column| column.in_primary_key);
    let mut found = false;
    for (index, column) in table.columns.iter().enumerate() {
        if if primary {
            column.in_primary_key
        } else {
            column.in_identity
        } {
            if found {
                out.push(':');
            }
            out.push_str(&text(row.get(index)?)?);
            found = true;
        }
    }
    found.then_some(())
}

fn text(value: Value<'_>) -> Option<String> {
    match value {
        Value::Text(text) | Value::Binary(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::Null | Value::Same => None,
    }
}

/// The table of an event, the first if there are several.
pub fn first_table<'a>(event: &Event<'a>) -> Option<&'a Table> {
    match event {
        Event::Row(_, Change::Insert { table, .. } | Change::Update { table, .. } | Change::Delete { table, .. }) => {
            Some(table)
        }
        Event::Row(_, Change::Truncate { tables, .. }) => tables.first().map(|emptied| emptied.table),
        Event::Ddl(_, ddl) => ddl.tables.first().copied(),
        _ => None,
    }
}

/// One word for what happened.
pub fn operation(event: &Event<'_>) -> &'static str {
    match event {
        Event::Row(_, Change::Insert { .. }) => "insert",
        Event::Row(_, Change::Update { .. }) => "update",
        Event::Row(_, Change::Delete { .. }) => "delete",
        Event::Row(_, Change::Truncate { .. }) => "truncate",
        Event::Message(..) => "message",
        Event::Ddl(..) => "ddl",
        _ => "transaction",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use synod_change::stream::{EventId, Place};

    fn table() -> Table {
        let column = |name: &str, in_primary_key| Column {
            name: name.into(),
            in_primary_key,
            ..Column::default()
        };
        Table {
            schema: "s".into(),
            name: "a*b".into(),
            columns: vec![column("id", true), column("v", false), column("part", true)],
            ..Table::default()
        }
    }

    #[test]
    fn names_are_filled_in() {
        let table = table();
        let values = [Value::Text(b"7"), Value::Null, Value::Text(b"x")];
        let row = Row::new(&values);
        let id = EventId::Commit { lsn: 1, ordinal: 1 };
        let place = Place { id, lsn: 1, xid: 1 };
        let event = Event::Row(
            place,
            Change::Insert {
                table: &table,
                new: row,
            },
        );
        let fill = |text: &str| Template::parse(text, true).unwrap().fill_row(&event, &table, row);
        assert_eq!(fill("{schema}.{table}:{key}").as_deref(), Some("s.a*b:7:x"));
        assert_eq!(fill("{{{part}}}/{op}").as_deref(), Some("{x}/insert"));
        assert_eq!(fill("{v}"), None, "it is NULL");
        assert_eq!(fill("{w}"), None, "there is no such column");
        let keyless = Table {
            columns: vec![],
            ..table.clone()
        };
        let lacks_only_key = |text: &str| Template::parse(text, true).unwrap().lacks_only_key(&keyless);
        assert!(lacks_only_key("{schema}.{table}:{key}") && lacks_only_key("row/{key}"));
        assert!(!lacks_only_key("{key}") && !lacks_only_key("row/{key}/{v}"));
        let glob = Template::parse("{table}:{key}", true).unwrap().glob(&table);
        assert_eq!(glob, "a\\*b:*");
        let subject = Template::parse("cdc.{schema}.{table}", false).unwrap();
        assert_eq!(subject.fill(&event, |name| name.replace('*', "_")), "cdc.s.a_b");
    }

    #[test]
    fn what_is_wrong_with_a_template_is_told() {
        for wrong in ["{", "}", "a{b", "a}b", "{}", "{key}", "{id}"] {
            assert!(Template::parse(wrong, false).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_template_panics(text: String, braces in "[{}a]{0,8}") {
            let _ = Template::parse(&text, true);
            let _ = Template::parse(&braces, true);
        }
    }
}
