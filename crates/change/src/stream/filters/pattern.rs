//! Patterns of table and column names.

use super::scanner::{Expected, Piece, Scanner};

/// A name in which parts stand for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(Vec<Piece>);

impl NamePattern {
    /// Read one.
    pub(super) fn scan(scanner: &mut Scanner<'_>) -> Result<Self, Expected> {
        scanner.name_pattern().map(Self)
    }

    /// Whether it stands for this name.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        matches(&self.0, name)
    }

    /// As it may be written.
    pub(super) fn written(&self) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Any => "*".to_owned(),
            Piece::Literal(name) => {
                let name = String::from_utf8_lossy(name);
                let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
                match name.bytes().all(is_plain) {
                    true => name.into_owned(),
                    false => format!("\"{}\"", name.replace('"', "\"\"")),
                }
            }
        };
        self.0.iter().map(piece).collect()
    }

    /// The one name that it stands for.
    #[must_use]
    pub fn literal(&self) -> Option<Vec<u8>> {
        self.0.iter().try_fold(Vec::new(), |mut name, piece| match piece {
            Piece::Literal(part) => {
                name.extend_from_slice(part);
                Some(name)
            }
            Piece::Any => None,
        })
    }
}

/// Tables: `schema.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern {
    schema: NamePattern,
    table: NamePattern,
}

impl TablePattern {
    /// Read one. The schema is not left out: what it would be depends on a search path that a reader of the stream does not see.
    pub(super) fn scan(scanner: &mut Scanner<'_>) -> Result<Self, Expected> {
        let schema = NamePattern::scan(scanner)?;
        if !scanner.take(b'.') {
            return Err("a table with its schema, as in public.orders or *.orders");
        }
        let table = NamePattern::scan(scanner)?;
        Ok(Self { schema, table })
    }

    /// Whether it stands for this table.
    #[must_use]
    pub fn matches(&self, schema: &[u8], table: &[u8]) -> bool {
        self.schema.matches(schema) && self.table.matches(table)
    }

    /// As it may be written.
    pub(super) fn written(&self) -> String {
        format!("{}.{}", self.schema.written(), self.table.written())
    }

    /// It stands for one table.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.schema.literal().is_some() && self.table.literal().is_some()
    }

    /// A list as wal2json reads it: separated by commas, case as given, `*` alone for any, a backslash before what is no separator.
    pub(super) fn wal2json_list(text: &[u8]) -> Result<Vec<Self>, Expected> {
        let mut tables = Vec::new();
        // Each with whether a part of it was escaped: then an asterisk is one.
        let mut names = vec![(Vec::new(), false)];
        let mut bytes = text.iter();
        loop {
            let byte = bytes.next();
            match (byte, names.last_mut()) {
                (Some(b'\\'), Some((name, escaped))) => {
                    name.extend(bytes.next());
                    *escaped = true;
                }
                (Some(b'.'), _) => names.push((Vec::new(), false)),
                (Some(byte), Some((name, _))) if *byte != b',' => {
                    if !byte.is_ascii_whitespace() {
                        name.push(*byte);
                    }
                }
                _ => {
                    let pattern = |(name, escaped): &(Vec<u8>, bool)| match name.as_slice() {
                        b"*" if !escaped => NamePattern(vec![Piece::Any]),
                        _ => NamePattern(vec![Piece::Literal(name.clone())]),
                    };
                    match names.as_slice() {
                        [schema, table] if !schema.0.is_empty() && !table.0.is_empty() => tables.push(Self {
                            schema: pattern(schema),
                            table: pattern(table),
                        }),
                        _ => return Err("a table with its schema, as in public.orders or *.orders"),
                    }
                    names = vec![(Vec::new(), false)];
                }
            }
            if byte.is_none() {
                return Ok(tables);
            }
        }
    }
}

fn matches(pieces: &[Piece], name: &[u8]) -> bool {
    match pieces {
        [] => name.is_empty(),
        [Piece::Literal(text), rest @ ..] => name
            .strip_prefix(text.as_slice())
            .is_some_and(|name| matches(rest, name)),
        [Piece::Any, rest @ ..] => (0..=name.len()).any(|from| matches(rest, &name[from..])),
    }
}

#[cfg(test)]
mod tests {
    use super::{Scanner, TablePattern};

    fn pattern(text: &str) -> TablePattern {
        TablePattern::scan(&mut Scanner::new(text.as_bytes())).unwrap()
    }

    #[test]
    fn patterns_match_as_names_are_quoted_in_sql() {
        for (text, schema, table, expected) in [
            ("public.*", "public", "t", true),
            ("Public.Orders", "public", "orders", true),
            ("\"Public\".orders", "public", "orders", false),
            ("sales.order_*", "sales", "order_lines", true),
            ("sales.order_*", "sales", "orders", false),
            ("*.\"a*\"", "x", "ab", false),
            ("*.\"a*\"", "x", "a*", true),
            ("*.a*b*c", "x", "a1b2c", true),
            ("*.a*b*c", "x", "a1c", false),
            ("\"s.\"\"t\".\"Odd\"*", "s.\"t", "Oddly", true),
        ] {
            let matches = pattern(text).matches(schema.as_bytes(), table.as_bytes());
            assert_eq!(matches, expected, "{text} on {schema}.{table}");
        }
        for wrong in ["orders", ".orders", "public.", "\"open.t", "", "a b.c"] {
            assert!(
                TablePattern::scan(&mut Scanner::new(wrong.as_bytes())).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn wal2json_lists_are_read_as_there() {
        let list = TablePattern::wal2json_list(b"public.A\\,b, *.x\\.y,s.*").unwrap();
        assert!(list[0].matches(b"public", b"A,b"));
        assert!(list[1].matches(b"any", b"x.y") && !list[1].matches(b"any", b"x"));
        assert!(list[2].matches(b"s", b"t"));
        let star = TablePattern::wal2json_list(b"public.\\*").unwrap();
        assert!(star[0].matches(b"public", b"*") && !star[0].matches(b"public", b"t"));
        assert!(TablePattern::wal2json_list(b"t").is_err());
    }
}
