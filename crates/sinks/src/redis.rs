//! What a Redis server says (RESP2), and commands to it.
//!
//! Pure. Nothing that a server sends makes this panic or takes more memory than the limits here.

/// Of a simple line, a length or a number.
const MAX_LINE: usize = 1 << 16;
/// Of a string in an answer.
const MAX_BULK: usize = 1 << 24;
/// Of an array's items.
const MAX_ITEMS: usize = 1 << 20;
/// Arrays in arrays.
const MAX_DEPTH: usize = 8;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`
    Error(String),
    /// `:1`
    Integer(i64),
    /// A string of bytes.
    Bulk(Vec<u8>),
    /// Nothing.
    Null,
    /// Several.
    Array(Vec<Answer>),
}

/// What is wrong with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing: they are not all there yet.
    Incomplete,
    /// They are no answer.
    Malformed(&'static str),
}

/// Takes answers out of the bytes as they come.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
}

impl Parser {
    /// More bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole answer.
    pub fn take(&mut self) -> Result<Option<Answer>, &'static str> {
        let mut at = 0;
        match answer(&self.buffer, &mut at, 0) {
            Ok(answer) => {
                self.buffer.drain(..at);
                Ok(Some(answer))
            }
            Err(Wrong::Incomplete) => Ok(None),
            Err(Wrong::Malformed(what)) => Err(what),
        }
    }
}

fn answer(bytes: &[u8], at: &mut usize, depth: usize) -> Result<Answer, Wrong> {
    if depth > MAX_DEPTH {
        return Err(Wrong::Malformed("an answer that is nested too deeply"));
    }
    let line = line(bytes, at)?;
    let (kind, rest) = line.split_first().ok_or(Wrong::Malformed("an empty line"))?;
    Ok(match kind {
        b'+' => Answer::Simple(String::from_utf8_lossy(rest).into_owned()),
        b'-' => Answer::Error(String::from_utf8_lossy(rest).into_owned()),
        b':' => Answer::Integer(number(rest)?),
        b'$' => match length(rest, MAX_BULK)? {
            None => Answer::Null,
            Some(length) => {
                let end = *at + length;
                let body = bytes.get(*at..end).ok_or(Wrong::Incomplete)?;
                match bytes.get(end..end + 2).ok_or(Wrong::Incomplete)? {
                    b"\r\n" => *at = end + 2,
                    _ => return Err(Wrong::Malformed("a string without its end")),
                }
                Answer::Bulk(body.to_vec())
            }
        },
        b'*' => match length(rest, MAX_ITEMS)? {
            None => Answer::Null,
            // Room is made as items come, not as many as are promised.
            Some(count) => {
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(answer(bytes, at, depth + 1)?);
                }
                Answer::Array(items)
            }
        },
        _ => return Err(Wrong::Malformed("an answer of an unknown kind")),
    })
}

fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Result<&'a [u8], Wrong> {
    let rest = bytes.get(*at..).ok_or(Wrong::Incomplete)?;
    match rest.windows(2).take(MAX_LINE).position(|two| two == b"\r\n") {
        Some(end) => {
            *at += end + 2;
            Ok(&rest[..end])
        }
        None if rest.len() > MAX_LINE => Err(Wrong::Malformed("a line without an end")),
        None => Err(Wrong::Incomplete),
    }
}

fn number(digits: &[u8]) -> Result<i64, Wrong> {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or(Wrong::Malformed("a number that is none"))
}

fn length(digits: &[u8], most: usize) -> Result<Option<usize>, Wrong> {
    match number(digits)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= most => Ok(Some(length)),
            _ => Err(Wrong::Malformed("a length beyond all limits")),
        },
    }
}

/// The cursor and the keys in SCAN's answer.
#[must_use]
pub fn scanned(answer: Answer) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Answer::Array(parts) = answer else { return None };
    let Ok([Answer::Bulk(cursor), Answer::Array(keys)]) = <[Answer; 2]>::try_from(parts) else {
        return None;
    };
    let keys = keys.into_iter().map(|key| match key {
        Answer::Bulk(key) => Some(key),
        _ => None,
    });
    Some((cursor, keys.collect::<Option<_>>()?))
}

/// A command with its arguments.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], piece: usize) -> Result<Vec<Answer>, &'static str> {
        let (mut parser, mut found) = (Parser::default(), Vec::new());
        for some in bytes.chunks(piece.max(1)) {
            parser.feed(some);
            while let Some(answer) = parser.take()? {
                found.push(answer);
            }
        }
        Ok(found)
    }

    fn written(answer: &Answer, out: &mut Vec<u8>) {
        match answer {
            Answer::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Answer::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Answer::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Answer::Null => out.extend_from_slice(b"$-1\r\n"),
            Answer::Bulk(bytes) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Answer::Array(items) => {
                out.extend_from_slice(format!("*{}\r\n", items.len()).as_bytes());
                items.iter().for_each(|item| written(item, out));
            }
        }
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let leaf = prop_oneof![
            "[ -~]{0,20}".prop_map(Answer::Simple),
            "[ -~]{0,20}".prop_map(Answer::Error),
            any::<i64>().prop_map(Answer::Integer),
            any::<Vec<u8>>().prop_map(Answer::Bulk),
            Just(Answer::Null),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop::collection::vec(inner, 0..5).prop_map(Answer::Array)
        })
    }

    proptest! {
        #[test]
        fn answers_are_read_however_they_are_cut(answers in prop::collection::vec(answers(), 1..4), piece in 1usize..50) {
            let mut bytes = Vec::new();
            answers.iter().for_each(|answer| written(answer, &mut bytes));
            prop_assert_eq!(all(&bytes, piece), Ok(answers));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, piece in 1usize..40) {
            let _ = all(&bytes, piece);
        }

        #[test]
        fn no_damage_panics(answer in answers(), at: usize, byte: u8) {
            let mut bytes = Vec::new();
            written(&answer, &mut bytes);
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = all(&bytes, 7);
        }
    }

    proptest! {
        #[test]
        fn no_answer_to_scan_panics(answer in answers()) {
            let _ = scanned(answer);
        }
    }

    #[test]
    fn what_is_promised_is_not_allocated() {
        assert_eq!(all(b"*1048576\r\n", 100), Ok(vec![]));
        assert!(all(b"*99999999\r\n", 100).is_err());
        assert!(all(b"$99999999999\r\n", 100).is_err());
        assert!(all(&b"*1\r\n".repeat(100), 100).is_err());
    }
}
