//! What of the stream a reader wants: tables, columns, rows, operations, origins; and what it must not see as it is.
//!
//! Of what says which columns and rows are told the first entry that matches a table counts; of what keeps columns from the reader
//! (`exclude-columns`, `mask-columns`) all that match do. An entry that could never count is refused.

mod pattern;
mod scanner;

use super::OptionError;
pub use pattern::{NamePattern, TablePattern};
use scanner::{Expected, Scanner};

/// The filters of one reader.
#[derive(Default)]
pub struct Filters {
    /// Only these tables; `None`: all.
    include: Option<Vec<TablePattern>>,
    exclude: Vec<TablePattern>,
    columns: Vec<(TablePattern, Vec<NamePattern>)>,
    exclude_columns: Vec<(TablePattern, Vec<NamePattern>)>,
    masks: Vec<(TablePattern, Vec<(NamePattern, Mask)>)>,
    rows: Vec<(TablePattern, Vec<u8>)>,
    /// Which operations.
    pub operations: Operations,
    /// Where changes were made first.
    pub origins: Origins,
    /// Goes before what is hashed.
    pub salt: Vec<u8>,
}

/// Operations that are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations {
    /// INSERT.
    pub insert: bool,
    /// UPDATE.
    pub update: bool,
    /// DELETE.
    pub delete: bool,
    /// TRUNCATE.
    pub truncate: bool,
}

/// Origins that are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// All.
    #[default]
    Any,
    /// What was made here.
    None,
    /// What came from these, by name.
    Named(Vec<Vec<u8>>),
    /// All but what came from these.
    Without(Vec<Vec<u8>>),
}

impl Origins {
    /// Whether what other nodes of the group made, which is of no origin with a name, is left out.
    #[must_use]
    pub const fn leave_out_elsewhere(&self) -> bool {
        matches!(self, Self::None | Self::Named(_))
    }

    /// Whether changes of an origin are told; `None`: made here.
    #[must_use]
    pub fn wants(&self, origin: Option<&[u8]>) -> bool {
        let is_of = |names: &[Vec<u8>]| origin.is_some_and(|origin| names.iter().any(|name| name == origin));
        match self {
            Self::Any => true,
            Self::None => origin.is_none(),
            Self::Named(names) => is_of(names),
            Self::Without(names) => !is_of(names),
        }
    }
}

/// What is told in place of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// NULL.
    Null,
    /// SHA-256 of salt and text, in hex.
    Hash,
    /// This.
    Text(Vec<u8>),
}

/// The options read here.
pub const OPTIONS: [&str; 9] = [
    "include-tables",
    "exclude-tables",
    "columns",
    "exclude-columns",
    "row-filter",
    "operations",
    "origins",
    "mask-columns",
    "mask-salt",
];

impl Default for Operations {
    fn default() -> Self {
        Self {
            insert: true,
            update: true,
            delete: true,
            truncate: true,
        }
    }
}

impl Filters {
    /// Take one of [`OPTIONS`], or of those that wal2json calls otherwise; false: it is none.
    ///
    /// # Errors
    /// The value is nothing that it can be.
    pub fn set(&mut self, option: &str, value: Option<&[u8]>) -> Result<bool, OptionError> {
        match option {
            "include-tables" => self.include = Some(list(option, value, TablePattern::scan)?),
            "exclude-tables" => self.exclude = list(option, value, TablePattern::scan)?,
            "columns" => self.columns = each_once(option, list(option, value, columns)?)?,
            "exclude-columns" => self.exclude_columns = list(option, value, columns)?,
            "mask-columns" => self.masks = each_masked_once(list(option, value, masks)?)?,
            "row-filter" => self.rows = each_once(option, list(option, value, row_filter)?)?,
            "mask-salt" => value.unwrap_or_default().clone_into(&mut self.salt),
            "operations" => self.operations = operations(option, value)?,
            "origins" => self.origins = origins(option, value)?,
            // Of wal2json.
            "add-tables" => self.include = Some(wal2json(option, value)?),
            "filter-tables" => self.exclude = wal2json(option, value)?,
            "filter-origins" => self.origins = Origins::Without(names(option, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether the reader wants a table.
    #[must_use]
    pub fn wants_table(&self, schema: &[u8], table: &[u8]) -> bool {
        let any = |patterns: &[TablePattern]| patterns.iter().any(|pattern| pattern.matches(schema, table));
        self.include.as_deref().is_none_or(any) && !any(&self.exclude)
    }

    /// Whether it wants a column of it.
    #[must_use]
    pub fn wants_column(&self, schema: &[u8], table: &[u8], column: &[u8]) -> bool {
        let named = |names: &[NamePattern]| names.iter().any(|name| name.matches(column));
        of_table(&self.columns, schema, table).is_none_or(|names| named(names))
            && !all_of_table(&self.exclude_columns, schema, table).any(|names| named(names))
    }

    /// What is told in place of a column's values.
    #[must_use]
    pub fn mask(&self, schema: &[u8], table: &[u8], column: &[u8]) -> Option<&Mask> {
        all_of_table(&self.masks, schema, table)
            .flatten()
            .find_map(|(name, mask)| name.matches(column).then_some(mask))
    }

    /// The condition on its rows.
    #[must_use]
    pub fn row_filter(&self, schema: &[u8], table: &[u8]) -> Option<&[u8]> {
        of_table(&self.rows, schema, table).map(Vec::as_slice)
    }

    /// All conditions.
    pub fn row_filters(&self) -> impl Iterator<Item = &[u8]> {
        self.rows.iter().map(|(_, condition)| condition.as_slice())
    }

    /// A column of a table named in full, which is none of `columns`, and the option that names it: rather than that something else is
    /// told because of a slip of the pen, or a column's new name, nothing is.
    #[must_use]
    pub fn missing_column(&self, schema: &[u8], table: &[u8], columns: &[&[u8]]) -> Option<(&'static str, Vec<u8>)> {
        let missing = |name: &NamePattern| name.literal().filter(|name| !columns.contains(&name.as_slice()));
        let here = |pattern: &TablePattern| pattern.is_literal() && pattern.matches(schema, table);
        let told = self.columns.iter().filter(|(pattern, _)| here(pattern));
        let excluded = self.exclude_columns.iter().filter(|(pattern, _)| here(pattern));
        let masked = self.masks.iter().filter(|(pattern, _)| here(pattern));
        let told = told.flat_map(|(_, names)| names).map(|name| ("columns", name));
        let excluded = excluded
            .flat_map(|(_, names)| names)
            .map(|name| ("exclude-columns", name));
        let masked = masked
            .flat_map(|(_, names)| names)
            .map(|(name, _)| ("mask-columns", name));
        told.chain(excluded)
            .chain(masked)
            .find_map(|(option, name)| Some((option, missing(name)?)))
    }

    /// An option that keeps something from the reader, names the table `other` in full, and says nothing of `told`, under whose name the
    /// rows of `other` are told: a partition's as its root, or the other way round. (Schema and name.)
    #[must_use]
    pub fn bypassed(&self, other: (&[u8], &[u8]), told: (&[u8], &[u8])) -> Option<&'static str> {
        let names = |pattern: &TablePattern| pattern.is_literal() && pattern.matches(other.0, other.1);
        fn silent<T>(
            entries: &[(TablePattern, T)],
            told: (&[u8], &[u8]),
            names: impl Fn(&TablePattern) -> bool,
        ) -> bool {
            of_table(entries, told.0, told.1).is_none() && entries.iter().any(|(pattern, _)| names(pattern))
        }
        [
            ("exclude-tables", self.exclude.iter().any(names)),
            ("columns", silent(&self.columns, told, names)),
            ("exclude-columns", silent(&self.exclude_columns, told, names)),
            ("mask-columns", silent(&self.masks, told, names)),
            ("row-filter", silent(&self.rows, told, names)),
        ]
        .into_iter()
        .find_map(|(option, bypassed)| bypassed.then_some(option))
    }
}

fn all_of_table<'a, T>(entries: &'a [(TablePattern, T)], schema: &[u8], table: &[u8]) -> impl Iterator<Item = &'a T> {
    let entries = entries
        .iter()
        .filter(move |(pattern, _)| pattern.matches(schema, table));
    entries.map(|(_, what)| what)
}

fn of_table<'a, T>(entries: &'a [(TablePattern, T)], schema: &[u8], table: &[u8]) -> Option<&'a T> {
    all_of_table(entries, schema, table).next()
}

/// The entries, none of which is of the same tables as one before it.
fn each_once<T>(option: &str, entries: Vec<(TablePattern, T)>) -> Result<Vec<(TablePattern, T)>, OptionError> {
    for (at, (pattern, _)) in entries.iter().enumerate() {
        if entries[..at].iter().any(|(before, _)| before == pattern) {
            return Err(OptionError {
                message: format!("option \"{option}\" names table {} twice", pattern.written()),
                hint: "Give each table once, with all that is to be said of it.".into(),
            });
        }
    }
    Ok(entries)
}

type Masks = Vec<(TablePattern, Vec<(NamePattern, Mask)>)>;

/// The entries, none of which masks a column that one of the same tables before it masks.
fn each_masked_once(entries: Masks) -> Result<Masks, OptionError> {
    let mut known = Vec::new();
    for (table, columns) in &entries {
        for (column, _) in columns {
            if known.contains(&(table, column)) {
                let (table, column) = (table.written(), column.written());
                return Err(OptionError {
                    message: format!("option \"mask-columns\" names column {column} of table {table} twice"),
                    hint: "Give one mask for each column.".into(),
                });
            }
            known.push((table, column));
        }
    }
    Ok(entries)
}

/// Items separated by commas; at least one.
fn list<T>(
    option: &str,
    value: Option<&[u8]>,
    mut item: impl FnMut(&mut Scanner<'_>) -> Result<T, Expected>,
) -> Result<Vec<T>, OptionError> {
    let mut scanner = Scanner::new(value.unwrap_or_default());
    let mut items = Vec::new();
    loop {
        match item(&mut scanner) {
            Ok(item) => items.push(item),
            Err(expected) => return Err(unexpected(option, value, expected, &scanner)),
        }
        if scanner.is_at_end() {
            return Ok(items);
        }
        if !scanner.take(b',') {
            return Err(unexpected(option, value, "a comma", &scanner));
        }
    }
}

fn unexpected(option: &str, value: Option<&[u8]>, expected: Expected, scanner: &Scanner<'_>) -> OptionError {
    let rest = scanner.rest();
    let at = if rest.is_empty() {
        "the end".to_owned()
    } else {
        format!("\"{rest}\"")
    };
    OptionError::invalid(option, value, format!("Expected {expected} at {at}."))
}

/// `(item, item)`.
fn items<T>(
    scanner: &mut Scanner<'_>,
    item: impl Fn(&mut Scanner<'_>) -> Result<T, Expected>,
) -> Result<Vec<T>, Expected> {
    if !scanner.take(b'(') {
        return Err("columns in parentheses");
    }
    let mut items = vec![item(scanner)?];
    while !scanner.take(b')') {
        if !scanner.take(b',') {
            return Err("a comma or a closing parenthesis");
        }
        items.push(item(scanner)?);
    }
    Ok(items)
}

fn columns(scanner: &mut Scanner<'_>) -> Result<(TablePattern, Vec<NamePattern>), Expected> {
    Ok((TablePattern::scan(scanner)?, items(scanner, NamePattern::scan)?))
}

fn masks(scanner: &mut Scanner<'_>) -> Result<(TablePattern, Vec<(NamePattern, Mask)>), Expected> {
    let table = TablePattern::scan(scanner)?;
    let masked = items(scanner, |scanner| {
        let column = NamePattern::scan(scanner)?;
        let mask = if scanner.take_word("null") {
            Mask::Null
        } else if scanner.take_word("hash") {
            Mask::Hash
        } else if let Some(text) = scanner.literal()? {
            Mask::Text(text)
        } else {
            return Err("null, hash or a text in single quotes");
        };
        Ok((column, mask))
    })?;
    Ok((table, masked))
}

fn row_filter(scanner: &mut Scanner<'_>) -> Result<(TablePattern, Vec<u8>), Expected> {
    let table = TablePattern::scan(scanner)?;
    if !scanner.take_word("where") {
        return Err("WHERE (condition)");
    }
    Ok((table, scanner.parenthesised()?.to_vec()))
}

fn operations(option: &str, value: Option<&[u8]>) -> Result<Operations, OptionError> {
    let mut operations = Operations {
        insert: false,
        update: false,
        delete: false,
        truncate: false,
    };
    for word in list(option, value, NamePattern::scan)? {
        match word.literal().as_deref() {
            Some(b"insert") => operations.insert = true,
            Some(b"update") => operations.update = true,
            Some(b"delete") => operations.delete = true,
            Some(b"truncate") => operations.truncate = true,
            _ => {
                let hint = "Operations are: insert, update, delete, truncate.";
                return Err(OptionError::invalid(option, value, hint));
            }
        }
    }
    Ok(operations)
}

const ORIGINS_HINT: &str = "It is any, none, or names of replication origins.";

fn origins(option: &str, value: Option<&[u8]>) -> Result<Origins, OptionError> {
    let names = names(option, value)?;
    // No origin has such a name (from PostgreSQL 16 on).
    match names.as_slice() {
        [name] if name == b"any" => Ok(Origins::Any),
        [name] if name == b"none" => Ok(Origins::None),
        names if names.iter().any(|name| name == b"any" || name == b"none") => {
            Err(OptionError::invalid(option, value, ORIGINS_HINT))
        }
        _ => Ok(Origins::Named(names)),
    }
}

fn names(option: &str, value: Option<&[u8]>) -> Result<Vec<Vec<u8>>, OptionError> {
    let names = list(option, value, NamePattern::scan)?;
    let names: Option<Vec<_>> = names.iter().map(NamePattern::literal).collect();
    names.ok_or_else(|| OptionError::invalid(option, value, ORIGINS_HINT))
}

fn wal2json(option: &str, value: Option<&[u8]>) -> Result<Vec<TablePattern>, OptionError> {
    TablePattern::wal2json_list(value.unwrap_or_default())
        .map_err(|expected| OptionError::invalid(option, value, format!("Expected {expected}.")))
}
