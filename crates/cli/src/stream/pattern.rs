//! Which tables are wanted: for the initial snapshot what the output plugin decides for the stream.

/// `schema.table`; `*` for either stands for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    schema: Option<String>,
    table: Option<String>,
}

impl Pattern {
    /// Parse it. A backslash makes a full stop, a comma, a star, a blank or itself part of a name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut part, mut escaped, mut quoted) = (Vec::new(), String::new(), false, false);
        for letter in text.chars() {
            match letter {
                _ if escaped => {
                    part.push(letter);
                    (escaped, quoted) = (false, true);
                }
                '\\' => escaped = true,
                '.' => parts.push((std::mem::take(&mut part), std::mem::take(&mut quoted))),
                _ => part.push(letter),
            }
        }
        parts.push((part, quoted));
        let any = |(part, quoted): (String, bool)| (quoted || part != "*").then_some(part);
        match <[_; 2]>::try_from(parts) {
            Ok([schema, table]) if !escaped && !schema.0.is_empty() && !table.0.is_empty() => Ok(Self {
                schema: any(schema),
                table: any(table),
            }),
            _ => Err(format!("\"{text}\" is not of the form schema.table")),
        }
    }

    /// Whether it means this table.
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        self.schema.as_deref().is_none_or(|wanted| wanted == schema)
            && self.table.as_deref().is_none_or(|wanted| wanted == table)
    }
}

/// Wanted, and not unwanted.
pub fn wanted(tables: &[Pattern], excluded: &[Pattern], schema: &str, table: &str) -> bool {
    let among = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(schema, table));
    (tables.is_empty() || among(tables)) && !among(excluded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_are_those_of_the_plugin() {
        let matches =
            |pattern: &str, schema: &str, table: &str| Pattern::parse(pattern).unwrap().matches(schema, table);
        assert!(matches("public.a", "public", "a"));
        assert!(!matches("public.a", "public", "b"));
        assert!(matches("*.a", "s", "a") && matches("s.*", "s", "a") && matches("*.*", "s", "a"));
        assert!(matches("a\\.b.c", "a.b", "c") && matches("s.\\*", "s", "*") && !matches("s.\\*", "s", "t"));
        for wrong in ["a", "a.b.c", ".a", "a.", "a.b\\", ""] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_panics(text: String) {
            let _ = Pattern::parse(&text);
        }
    }
}
