//! What it takes to read literals back, and to find the rows that have their values: for `sql`, and for whoever writes to a PostgreSQL.

use super::Column;

/// The settings that the reading of a literal, and the printing of what it is compared with, depend on. Values are printed under these
/// ([`super::Format::wants_exact_text`]). `TimeZone` and `lc_monetary` are beside them: they must be those of where the texts come from.
/// (`standard_conforming_strings` and `backslash_quote` are the business of who writes the quotes.)
pub const SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("array_nulls", "on"),
    ("xmloption", "content"),
];

/// How a column is compared with the literal of a value that is not NULL: `LEFT = 'text' AFTER`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The column, or what is made of it.
    pub left: Vec<u8>,
    /// Behind the literal: the type that it is read as.
    pub after: Vec<u8>,
    /// The column is printed, and NULL is printed as nothing: compared with the empty text, it must not be NULL.
    prints: bool,
}

impl Comparison {
    /// By the type's own equality, that of the unique index: a key. `name`: the column's, quoted.
    #[must_use]
    pub fn of_key(column: &Column, name: &[u8]) -> Self {
        let typed = column.literal_type.as_ref();
        let after = typed.map(|name| [b"::", &name[..]].concat()).unwrap_or_default();
        Self {
            // A domain over an enum is no enum; an index on it serves all the same.
            left: [name, &after].concat(),
            after,
            prints: false,
        }
    }

    /// The same value, not only one that a type takes for equal (1.0 and 1.00, one month and thirty days, what a collation does not tell
    /// apart); and some types have no equality. What the output function prints is compared: a cast to text may print something else.
    #[must_use]
    pub fn exact(column: &Column, name: &[u8]) -> Self {
        let collated = |left: &[&[u8]]| [&left.concat(), &b" COLLATE pg_catalog.\"C\""[..]].concat();
        let (left, prints) = match column.type_oid {
            // bool, bytea, int8, int2, int4, oid, date, time, timestamp, timestamptz, uuid, pg_lsn, macaddr
            16 | 17 | 20 | 21 | 23 | 26 | 1082 | 1083 | 1114 | 1184 | 2950 | 3220 | 829 => (name.to_vec(), false),
            // text, varchar, name
            25 | 1043 | 19 => (collated(&[name]), false),
            // A name of an object is printed as the search path has it, and means one object.
            _ if is_number_with_name(column) => return Self::of_key(column, name),
            _ => (collated(&[b"pg_catalog.format('%s', ", name, b")"]), true),
        };
        Self {
            left,
            after: Vec::new(),
            prints,
        }
    }

    /// The column must be compared with NULL, too.
    #[must_use]
    pub fn is_ambiguous(&self, text: &[u8]) -> bool {
        self.prints && text.is_empty()
    }
}

/// `regclass` and its like, and domains over them. Names may be in quotes without need (`quote_all_identifiers`).
fn is_number_with_name(column: &Column) -> bool {
    column.literal_type.as_ref().is_some_and(|name| {
        let plain = name.iter().filter(|byte| **byte != b'"');
        plain.take(14).eq(b"pg_catalog.reg")
    })
}
