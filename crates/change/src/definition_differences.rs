//! What differs between a table here and the same table elsewhere, in words for the user.

use std::collections::BTreeSet;

use crate::{ColumnDefinition, Identity, TableDefinition};

impl TableDefinition {
    /// What keeps `self` (here) and `other` (there) from replicating to each other; empty if nothing does. Ids are not
    /// compared. Each is a sentence without its full stop: `column "x" is integer here, bigint there`.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        self.differences_to(other, "there")
    }

    /// The same, with words of one's own for where `other` is: `on node n2`, `in the group`.
    #[must_use]
    pub fn differences_to(&self, other: &Self, there: &str) -> Vec<String> {
        let mut found = Found {
            there,
            list: Vec::new(),
        };
        let named = |table: &Self| format!("\"{}\".\"{}\"", table.schema, table.name);
        found.compare("the table is", &named(self), &named(other));
        self.compare_columns(other, &mut found);
        found.compare("rows are identified by", &self.identity_text(), &other.identity_text());
        let indexes = |table: &Self| {
            table
                .indexes
                .iter()
                .map(|index| format!("index {}", index.definition))
                .collect()
        };
        found.compare_sets(indexes(self), indexes(other));
        let foreign_keys = |table: &Self| {
            let text = |key: &crate::ForeignKeyDefinition| format!("foreign key {}", key.definition);
            table.foreign_keys.iter().map(text).collect()
        };
        found.compare_sets(foreign_keys(self), foreign_keys(other));
        let checks = |table: &Self| {
            let text = |check: &crate::CheckDefinition| format!("constraint \"{}\" {}", check.name, check.definition);
            table.checks.iter().map(text).collect()
        };
        found.compare_sets(checks(self), checks(other));
        let or_not = |text: &Option<String>, what: &str| match text {
            Some(text) => format!("{what} {text}"),
            None => format!("not {what}"),
        };
        let key = |table: &Self| or_not(&table.partitioned_by, "partitioned by");
        found.compare("the table is", &key(self), &key(other));
        let place = |table: &Self| or_not(&table.partition_of, "a part of");
        found.compare("the table is", &place(self), &place(other));
        found.list
    }

    fn compare_columns(&self, other: &Self, found: &mut Found<'_>) {
        for column in &self.columns {
            match other.columns.iter().find(|candidate| candidate.name == column.name) {
                Some(theirs) => compare_column(column, theirs, found),
                None => found.only_here(&format!("column \"{}\"", column.name)),
            }
        }
        for column in &other.columns {
            if !self.columns.iter().any(|candidate| candidate.name == column.name) {
                found.only_there(&format!("column \"{}\"", column.name));
            }
        }
        let names = |table: &Self| {
            table
                .columns
                .iter()
                .map(|column| column.name.clone())
                .collect::<Vec<_>>()
        };
        let (here, there) = (names(self), names(other));
        if here != there && here.iter().collect::<BTreeSet<_>>() == there.iter().collect() {
            found.compare("the columns' order is", &here.join(", "), &there.join(", "));
        }
    }

    fn identity_text(&self) -> String {
        match &self.identity {
            Identity::FullRow => "the whole row".to_owned(),
            Identity::Columns(columns) => {
                let name = |number: &u16| match self.columns.get(usize::from(*number)) {
                    Some(column) => format!("\"{}\"", column.name),
                    None => format!("column number {number}"),
                };
                format!("({})", columns.iter().map(name).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

fn compare_column(here: &ColumnDefinition, there: &ColumnDefinition, found: &mut Found<'_>) {
    let column = format!("column \"{}\"", here.name);
    found.compare(&format!("{column} is"), &here.type_name, &there.type_name);
    if here.type_name == there.type_name {
        let typmod = |column: &ColumnDefinition| match column.typmod {
            -1 => "none".to_owned(),
            other => other.to_string(),
        };
        found.compare(
            &format!("{column}: the type modifier is"),
            &typmod(here),
            &typmod(there),
        );
    }
    let nullable = |column: &ColumnDefinition| if column.not_null { "NOT NULL" } else { "nullable" };
    found.compare(&format!("{column} is"), nullable(here), nullable(there));
    let or_none = |text: &Option<String>| text.as_deref().unwrap_or("none").to_owned();
    found.compare(
        &format!("{column}: the collation is"),
        &or_none(&here.collation),
        &or_none(&there.collation),
    );
    let generated = |column: &ColumnDefinition| match &column.generated {
        Some(expression) => format!("generated as {expression}"),
        None => "not generated".to_owned(),
    };
    found.compare(&format!("{column} is"), &generated(here), &generated(there));
    let identity = |column: &ColumnDefinition| match column.identity {
        Some('a') => "generated always as identity".to_owned(),
        Some('d') => "generated by default as identity".to_owned(),
        Some(other) => format!("an identity column of kind \"{other}\""),
        None => "no identity column".to_owned(),
    };
    found.compare(&format!("{column} is"), &identity(here), &identity(there));
    found.compare(
        &format!("{column}: values travel as"),
        &format!("{:?}", here.wire).to_lowercase(),
        &format!("{:?}", there.wire).to_lowercase(),
    );
}

struct Found<'a> {
    there: &'a str,
    list: Vec<String>,
}

impl Found<'_> {
    fn compare(&mut self, what: &str, here: &str, there: &str) {
        if here != there {
            self.list.push(format!("{what} {here} here, {there} {}", self.there));
        }
    }

    fn only_here(&mut self, what: &str) {
        self.list.push(format!("{what} exists here and not {}", self.there));
    }

    fn only_there(&mut self, what: &str) {
        self.list.push(format!("{what} exists {} and not here", self.there));
    }

    /// Both sides sorted: the order of indexes and constraints means nothing. Doubles count.
    fn compare_sets(&mut self, mut here: Vec<String>, mut there: Vec<String>) {
        here.sort_unstable();
        there.sort_unstable();
        let (mut mine, mut theirs) = (here.iter().peekable(), there.iter().peekable());
        loop {
            match (mine.peek(), theirs.peek()) {
                (Some(a), Some(b)) if a == b => {
                    mine.next();
                    theirs.next();
                }
                (Some(a), b) if b.is_none_or(|b| a < b) => {
                    self.only_here(a);
                    mine.next();
                }
                (_, Some(b)) => {
                    self.only_there(b);
                    theirs.next();
                }
                _ => return,
            }
        }
    }
}
