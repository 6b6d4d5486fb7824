//! What a NATS server says, and what we say to it.
//!
//! Pure. Nothing that a server sends makes this panic or takes more memory than the limits here.

use serde_json::Value;

/// A control line is not longer; INFO, which lists a cluster's addresses, is the longest.
const MAX_LINE: usize = 1 << 16;
/// Acknowledgements and answers of the API are small.
const MAX_PAYLOAD: usize = 1 << 20;

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// What it is: JSON.
    Info(String),
    /// Something for a subject that we listen to.
    Message {
        /// The subject.
        subject: String,
        /// The status in its headers, such as 503: nobody listens.
        status: Option<u16>,
        /// What it says.
        payload: Vec<u8>,
    },
    /// Answer with PONG.
    Ping,
    /// It has done what came before our PING.
    Pong,
    /// It has done something that we said.
    Good,
    /// It complains, and mostly closes the connection then.
    Complaint(String),
}

/// Takes messages out of the bytes as they come.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
}

impl Parser {
    /// More bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub fn take(&mut self) -> Result<Option<FromServer>, &'static str> {
        let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") else {
            return if self.buffer.len() > MAX_LINE {
                Err("a line without an end")
            } else {
                Ok(None)
            };
        };
        if end > MAX_LINE {
            return Err("a line that is too long");
        }
        let line = std::str::from_utf8(&self.buffer[..end]).map_err(|_| "a line that is not text")?;
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        let message = match word.to_ascii_uppercase().as_str() {
            "INFO" => FromServer::Info(rest.to_owned()),
            "PING" => FromServer::Ping,
            "PONG" => FromServer::Pong,
            "+OK" => FromServer::Good,
            "-ERR" => FromServer::Complaint(rest.trim_matches('\'').to_owned()),
            "MSG" => return self.message(end, false),
            "HMSG" => return self.message(end, true),
            _ => return Err("a line of an unknown kind"),
        };
        self.buffer.drain(..end + 2);
        Ok(Some(message))
    }

    /// `MSG subject sid [reply] bytes`, `HMSG subject sid [reply] header-bytes bytes`; the bytes follow the line.
    fn message(&mut self, end: usize, headers: bool) -> Result<Option<FromServer>, &'static str> {
        let line = std::str::from_utf8(&self.buffer[..end]).map_err(|_| "a line that is not text")?;
        let words: Vec<&str> = line.split_ascii_whitespace().skip(1).collect();
        let numbers = if headers { 2 } else { 1 };
        if !(2 + numbers..=3 + numbers).contains(&words.len()) {
            return Err("a message line with another number of words");
        }
        let number = |from_end: usize| {
            words[words.len() - from_end]
                .parse::<usize>()
                .map_err(|_| "a length that is none")
        };
        let total = number(1)?;
        let head = if headers { number(2)? } else { 0 };
        if total > MAX_PAYLOAD || head > total {
            return Err("a message that is too long");
        }
        let begin = end + 2;
        if self.buffer.len() < begin + total + 2 {
            return Ok(None);
        }
        let bytes = &self.buffer[begin..begin + total];
        let message = FromServer::Message {
            subject: words[0].to_owned(),
            status: headers.then(|| status(&bytes[..head])).flatten(),
            payload: bytes[head..].to_vec(),
        };
        self.buffer.drain(..begin + total + 2);
        Ok(Some(message))
    }
}

/// `NATS/1.0 503`
fn status(headers: &[u8]) -> Option<u16> {
    let line = headers.split(|byte| *byte == b'\r').next()?;
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("NATS/1.0")?;
    rest.trim_start().get(..3)?.parse().ok()
}

/// Publish with an id by which the server tells repetitions. `after`: only if the stream's last message has this id.
pub fn publish(out: &mut Vec<u8>, subject: &str, reply: &str, id: &str, after: Option<&str>, payload: &[u8]) {
    let mut headers = format!("NATS/1.0\r\nNats-Msg-Id: {}\r\n", one_line(id));
    if let Some(after) = after {
        headers.push_str(&format!("Nats-Expected-Last-Msg-Id: {}\r\n", one_line(after)));
    }
    headers.push_str("\r\n");
    let total = headers.len() + payload.len();
    out.extend_from_slice(format!("HPUB {subject} {reply} {} {total}\r\n{headers}", headers.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// What a message of such a payload counts for, against `max_payload`, with an id of the same length before it.
pub fn published_bytes(id: &str, payload: &[u8]) -> usize {
    // The names of the headers, and their ends.
    payload.len() + 2 * id.len() + 80
}

/// Ask something.
pub fn request(out: &mut Vec<u8>, subject: &str, reply: &str, payload: &[u8]) {
    out.extend_from_slice(format!("PUB {subject} {reply} {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// What became of a message that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It is in this stream.
    Stored(String),
    /// It is not there, as the one before it was not the last one.
    OutOfTurn,
    /// It is not there, and never will be.
    Refused(String),
    /// It is not there for now.
    Later(String),
}

/// What an acknowledgement says: the status in its headers, and the JSON that it is.
#[must_use]
pub fn parse_acknowledgement(subject: &str, status: Option<u16>, bytes: &[u8]) -> Acknowledged {
    if status == Some(503) {
        return Acknowledged::Later(format!("no stream of the NATS server takes subject \"{subject}\""));
    }
    let answer: Value = serde_json::from_slice(bytes).unwrap_or_default();
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        let said = error["description"].as_str();
        let said = said.unwrap_or("an error without a description").to_owned();
        return match error["err_code"].as_u64() {
            // The message is too large for the stream. Everything else is about the stream or the server.
            Some(10_054) => Acknowledged::Refused(said),
            Some(10_070) => Acknowledged::OutOfTurn,
            _ => Acknowledged::Later(said),
        };
    }
    match (answer["stream"].as_str(), answer["seq"].as_u64()) {
        // The first of that id is under way among the servers of the stream, and may come to nothing yet.
        (Some(_), Some(0)) => Acknowledged::Later("the message is not stored yet".into()),
        (Some(stream), Some(_)) => Acknowledged::Stored(stream.to_owned()),
        _ => Acknowledged::Later("an acknowledgement that cannot be understood".into()),
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

/// A part of a subject: what would end it, or match others, is replaced.
pub fn token(text: &str) -> String {
    let replaced: String = text
        .chars()
        .map(|letter| {
            let special = matches!(letter, '.' | '*' | '>') || letter.is_whitespace() || letter.is_control();
            if special { '_' } else { letter }
        })
        .collect();
    if replaced.is_empty() { "_".into() } else { replaced }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], piece: usize) -> (Vec<FromServer>, Option<&'static str>) {
        let (mut parser, mut found) = (Parser::default(), Vec::new());
        for some in bytes.chunks(piece.max(1)) {
            parser.feed(some);
            loop {
                match parser.take() {
                    Ok(Some(message)) => found.push(message),
                    Ok(None) => break,
                    Err(wrong) => return (found, Some(wrong)),
                }
            }
        }
        (found, None)
    }

    const TALK: &[u8] = b"INFO {\"max_payload\":1048576}\r\nPING\r\npong\r\n+OK\r\n-ERR 'Authorization Violation'\r\n\
        MSG _INBOX.a.1 1 5\r\n{\"a\"}\r\nHMSG _INBOX.a.2 1 16 18\r\nNATS/1.0 503\r\n\r\nhi\r\n";

    fn expected() -> Vec<FromServer> {
        vec![
            FromServer::Info("{\"max_payload\":1048576}".into()),
            FromServer::Ping,
            FromServer::Pong,
            FromServer::Good,
            FromServer::Complaint("Authorization Violation".into()),
            FromServer::Message {
                subject: "_INBOX.a.1".into(),
                status: None,
                payload: b"{\"a\"}".to_vec(),
            },
            FromServer::Message {
                subject: "_INBOX.a.2".into(),
                status: Some(503),
                payload: b"hi".to_vec(),
            },
        ]
    }

    proptest! {
        #[test]
        fn messages_are_read_however_they_are_cut(piece in 1usize..80) {
            prop_assert_eq!(all(TALK, piece), (expected(), None));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, piece in 1usize..40) {
            let _ = all(&bytes, piece);
        }

        #[test]
        fn no_damage_panics(at in 0usize..200, byte: u8, piece in 1usize..40) {
            let mut talk = TALK.to_vec();
            let length = talk.len();
            talk[at % length] = byte;
            let _ = all(&talk, piece);
        }

        #[test]
        fn no_header_panics(bytes: Vec<u8>) {
            let _ = status(&bytes);
        }

        #[test]
        fn tokens_are_one_token(text: String) {
            let token = token(&text);
            prop_assert!(!token.is_empty() && !token.contains(['.', '*', '>', ' ', '\r', '\n']));
        }
    }

    proptest! {
        #[test]
        fn no_acknowledgement_panics(status: Option<u16>, bytes: Vec<u8>) {
            let _ = parse_acknowledgement("s", status, &bytes);
        }

        #[test]
        fn what_is_not_an_acknowledgement_is_not_taken_for_one(number: i64) {
            let told = parse_acknowledgement("s", None, number.to_string().as_bytes());
            prop_assert!(!matches!(told, Acknowledged::Stored(_)));
        }
    }

    #[test]
    fn acknowledgements_are_told_apart() {
        let told = |status, text: &str| parse_acknowledgement("s", status, text.as_bytes());
        let stored = Acknowledged::Stored("S".into());
        assert_eq!(told(None, r#"{"stream":"S","seq":7}"#), stored);
        assert_eq!(told(None, r#"{"stream":"S","seq":7,"duplicate":true}"#), stored);
        let waits = |status, text| matches!(told(status, text), Acknowledged::Later(_));
        assert!(waits(Some(503), ""));
        // Of a stream of several servers, whose leader knows no more than the id.
        assert!(waits(None, r#"{"stream":"S","seq":0,"duplicate":true}"#));
        let refused = r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}"#;
        assert!(matches!(told(None, refused), Acknowledged::Refused(reason) if reason.contains("size")));
        let turn =
            r#"{"error":{"code":400,"err_code":10070,"description":"wrong last msg ID: 6"},"stream":"S","seq":0}"#;
        assert_eq!(told(None, turn), Acknowledged::OutOfTurn);
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
        assert!(waits(None, full));
        // About the stream, not about the message.
        let sealed = r#"{"error":{"code":400,"err_code":10109,"description":"invalid operation on sealed stream"}}"#;
        assert!(waits(None, sealed));
        assert!(waits(None, "{}"));
    }

    #[test]
    fn an_endless_line_is_an_error() {
        assert!(all(&vec![b'x'; MAX_LINE + 10], 1_000).1.is_some());
        assert!(all(b"MSG a 1 99999999999\r\n", 100).1.is_some());
    }

    #[test]
    fn what_is_published_says_its_lengths() {
        let mut out = Vec::new();
        publish(&mut out, "s.t", "r.1", "id\r\nX: y", None, b"body");
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HPUB s.t r.1 35 39\r\nNATS/1.0\r\nNats-Msg-Id: id  X: y\r\n\r\nbody\r\n"
        );
        out.clear();
        publish(&mut out, "s.t", "r.1", "2", Some("1"), b"body");
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HPUB s.t r.1 58 62\r\nNATS/1.0\r\nNats-Msg-Id: 2\r\nNats-Expected-Last-Msg-Id: 1\r\n\r\nbody\r\n"
        );
        assert!(58 + 4 < published_bytes("2", b"body"));
    }
}
