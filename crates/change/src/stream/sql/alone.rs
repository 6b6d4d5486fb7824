//! Statements that no transaction block may hold.

/// CREATE and DROP INDEX CONCURRENTLY, DETACH PARTITION ... CONCURRENTLY. The other ones that a block may not hold are not told: they are
/// of the whole server, or change no definition.
pub(super) fn runs_alone(tag: &[u8], sql: &[u8]) -> bool {
    matches!(tag, b"CREATE INDEX" | b"DROP INDEX" | b"ALTER TABLE") && has_word(sql, b"CONCURRENTLY")
}

/// Whether a word, in any case, stands outside of strings, quoted names and comments.
fn has_word(sql: &[u8], word: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii();
    let mut rest = sql;
    while let Some(first) = rest.first() {
        let length = match first {
            // Two quotes in a row are two strings here, which comes to the same.
            b'\'' | b'"' => after(&rest[1..], &[*first]) + 1,
            b'-' if rest.starts_with(b"--") => after(rest, b"\n"),
            b'/' if rest.starts_with(b"/*") => after(rest, b"*/"),
            _ if is_word(first) => rest.iter().take_while(|byte| is_word(byte)).count(),
            _ => 1,
        };
        let (here, next) = rest.split_at(length.min(rest.len()));
        if here.eq_ignore_ascii_case(word) {
            return true;
        }
        rest = next;
    }
    false
}

/// The length up to the end of what is looked for.
fn after(text: &[u8], end: &[u8]) -> usize {
    memchr::memmem::find(text, end).map_or(text.len(), |at| at + end.len())
}

#[cfg(test)]
mod tests {
    use super::runs_alone;

    #[test]
    fn the_word_counts_and_nothing_that_looks_like_it() {
        let index = |sql: &str| runs_alone(b"CREATE INDEX", sql.as_bytes());
        assert!(index("create unique index concurrently i on t (v)"));
        assert!(index("CREATE INDEX /* ' */ CONCURRENTLY ON \"T\"(v) -- it's"));
        assert!(runs_alone(
            b"ALTER TABLE",
            b"ALTER TABLE p DETACH PARTITION \"q\" Concurrently;"
        ));
        assert!(!index("CREATE INDEX i ON t (v) WHERE v = 'it''s concurrently'"));
        assert!(!index("CREATE INDEX \"concurrently\" ON t (v) -- concurrently"));
        assert!(!index("CREATE INDEX concurrently_not ON t (v) /* concurrently */"));
        assert!(!runs_alone(b"CREATE FUNCTION", b"CREATE FUNCTION concurrently()"));
    }
}
