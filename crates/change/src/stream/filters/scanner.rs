//! Reads the small languages of options: lists of names, patterns and items in parentheses, quoted as in SQL.

/// Where reading stands in an option's value.
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// A part of a name as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Literal(Vec<u8>),
    /// Any bytes, also none.
    Any,
}

/// Something that is not what was expected; what was.
pub type Expected = &'static str;

impl<'a> Scanner<'a> {
    /// At the beginning of `text`.
    pub const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Nothing but blanks is left.
    pub fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.at == self.text.len()
    }

    /// Take this byte, if it comes next.
    pub fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    /// Take this word, in any case, if it comes next.
    pub fn take_word(&mut self, word: &str) -> bool {
        self.skip_blanks();
        let rest = &self.text[self.at..];
        let found = rest.len() >= word.len()
            && rest[..word.len()].eq_ignore_ascii_case(word.as_bytes())
            && !rest.get(word.len()).is_some_and(|next| is_name(*next));
        if found {
            self.at += word.len();
        }
        found
    }

    /// A name in which `*` stands for anything. Unquoted it is folded to lower case; in double quotes it is taken as it is.
    pub fn name_pattern(&mut self) -> Result<Vec<Piece>, Expected> {
        self.skip_blanks();
        let mut pieces = Vec::new();
        loop {
            match self.text.get(self.at) {
                Some(b'*') => {
                    self.at += 1;
                    pieces.push(Piece::Any);
                }
                Some(b'"') => pieces.push(Piece::Literal(self.quoted(b'"')?)),
                Some(byte) if is_name(*byte) => {
                    let length = self.text[self.at..].iter().take_while(|byte| is_name(**byte)).count();
                    pieces.push(Piece::Literal(
                        self.text[self.at..self.at + length].to_ascii_lowercase(),
                    ));
                    self.at += length;
                }
                _ if pieces.is_empty() => return Err("a name"),
                _ => return Ok(pieces),
            }
        }
    }

    /// A text in single quotes, if one comes next.
    pub fn literal(&mut self) -> Result<Option<Vec<u8>>, Expected> {
        self.skip_blanks();
        if self.text.get(self.at) == Some(&b'\'') {
            self.quoted(b'\'').map(Some)
        } else {
            Ok(None)
        }
    }

    /// What stands in parentheses, whatever it is, with quotes and inner parentheses in balance.
    pub fn parenthesised(&mut self) -> Result<&'a [u8], Expected> {
        if !self.take(b'(') {
            return Err("an expression in parentheses");
        }
        let from = self.at;
        let mut depth = 1;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'\'' | b'"' => {
                    self.quoted(*byte)?;
                    continue;
                }
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(&self.text[from..self.at - 1]);
            }
        }
        Err("a closing parenthesis")
    }

    /// What is left, for a message.
    pub fn rest(&self) -> String {
        String::from_utf8_lossy(&self.text[self.at..]).into_owned()
    }

    /// A quoted text, its quotes doubled inside; begins at one.
    fn quoted(&mut self, quote: u8) -> Result<Vec<u8>, Expected> {
        let mut text = Vec::new();
        self.at += 1;
        while let Some(byte) = self.text.get(self.at) {
            self.at += 1;
            if *byte != quote {
                text.push(*byte);
            } else if self.text.get(self.at) == Some(&quote) {
                self.at += 1;
                text.push(quote);
            } else {
                return Ok(text);
            }
        }
        Err("a closing quote")
    }

    fn skip_blanks(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }
}

/// May be part of an unquoted name.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}
