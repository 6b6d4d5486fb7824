//! What sinks and the server say to `synod stream`, whole and in pieces. Covers
//! crates/sinks/src/nats.rs, crates/sinks/src/redis.rs, crates/sinks/src/http.rs, crates/sinks/src/replication.rs.
#![no_main]

use std::time::SystemTime;

use synod_sinks::{http, nats, redis, replication};

/// Whatever a parser gives, until it wants more or no more of it.
fn nats_messages(data: &[u8], piece: usize) -> (Vec<nats::FromServer>, bool) {
    let (mut parser, mut found) = (nats::Parser::default(), Vec::new());
    for some in data.chunks(piece) {
        parser.feed(some);
        loop {
            match parser.take() {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
    }
    (found, true)
}

fn redis_answers(data: &[u8], piece: usize) -> (Vec<redis::Answer>, bool) {
    let (mut parser, mut found) = (redis::Parser::default(), Vec::new());
    for some in data.chunks(piece) {
        parser.feed(some);
        loop {
            match parser.take() {
                Ok(Some(answer)) => found.push(answer),
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
    }
    (found, true)
}

synod_fuzz::target!(|data: &[u8]| {
    let whole = data.len().max(1);
    let (messages, sound) = nats_messages(data, whole);
    if sound {
        assert_eq!(nats_messages(data, 7).0, messages, "read otherwise in pieces");
    }
    for message in messages {
        if let nats::FromServer::Message { status, payload, .. } = message {
            let _ = nats::parse_acknowledgement("subject", status, &payload);
        }
    }
    let _ = nats::parse_acknowledgement("subject", None, data);
    let (answers, sound) = redis_answers(data, whole);
    if sound {
        assert_eq!(redis_answers(data, 7).0, answers, "read otherwise in pieces");
    }
    answers.into_iter().for_each(|answer| drop(redis::scanned(answer)));
    let _ = replication::read(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = http::parse_retry_after(text, SystemTime::UNIX_EPOCH);
        assert!(!nats::token(text).contains(['.', '*', '>', ' ', '\r', '\n']));
    }
});
