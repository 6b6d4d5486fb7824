//! Events posted to an HTTP endpoint, one by one or in batches, signed.
//!
//! At least once: an answer that is lost makes us post again. Every event has an id that stays the same, for the endpoint to
//! tell repetitions by.
//!
//! | answer | what it means here |
//! |---|---|
//! | 2xx | delivered |
//! | 400, 409, 413, 415, 422 | refused; a batch is taken apart until the event is found that is |
//! | anything else, and no answer | not usable now: tried again, with growing pauses, `Retry-After` honoured |

use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use synod_sinks::http::parse_retry_after;
use ureq::Agent;
use ureq::http::{HeaderName, HeaderValue, Response};

use super::{Carried, Carrier, Parcel, Trouble};
use crate::failure::{Failure, sentence};
use crate::stream::envelope::Envelope;
use crate::stream::tls::Trust;

/// An endpoint that takes longer has not answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of an answer's body only so much is read, for the message.
const ANSWER_BYTES: u64 = 512;
/// A batch has no more bytes than this, unless one event has.
const BATCH_BYTES: usize = 1 << 20;
/// The header with time and signature.
const SIGNATURE: &str = "synod-signature";

/// How to post.
pub struct Http {
    agent: Agent,
    url: String,
    envelope: Envelope,
    batch: usize,
    secret: Option<Vec<u8>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What one attempt came to.
enum Answer {
    Delivered,
    Refused(String),
    Down(String, Option<Duration>),
}

impl Http {
    /// `batch`: events in one request; 1: each by itself.
    pub fn new(
        url: &str,
        envelope: Envelope,
        batch: usize,
        secret: Option<Vec<u8>>,
        headers: &[String],
        trust: &Trust,
    ) -> Result<Self, Failure> {
        let headers = headers
            .iter()
            .map(|header| parse_header(header))
            .collect::<Result<_, _>>()?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .user_agent(concat!("synod/", env!("CARGO_PKG_VERSION")))
            .tls_config(trust.for_http())
            .build();
        Ok(Self {
            agent: config.into(),
            url: url.to_owned(),
            envelope,
            batch: batch.max(1),
            secret,
            headers,
        })
    }

    fn body(&self, parcels: &[&Parcel]) -> Vec<u8> {
        if self.batch == 1
            && let [parcel] = parcels
        {
            return parcel.body.clone();
        }
        let mut body = vec![b'['];
        for (number, parcel) in parcels.iter().enumerate() {
            if number > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&parcel.body);
        }
        body.push(b']');
        body
    }

    fn post(&self, parcels: &[&Parcel]) -> Answer {
        let body = self.body(parcels);
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", self.envelope.media_type(self.batch > 1));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(secret) = &self.secret {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            request = request.header(SIGNATURE, signature(secret, now.as_secs(), &body));
        }
        match request.send(&body[..]) {
            Ok(response) => judge(response),
            Err(error) => Answer::Down(error.to_string(), None),
        }
    }

    /// How many of the first parcels fit into a request.
    fn fitting(&self, parcels: &[&Parcel]) -> usize {
        let mut bytes = 0;
        let fit = parcels.iter().take(self.batch).take_while(|parcel| {
            bytes += parcel.body.len() + 1;
            bytes <= BATCH_BYTES
        });
        fit.count().max(1).min(parcels.len())
    }
}

impl Carrier for Http {
    fn name(&self) -> String {
        // Without what may be a password.
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("http", &self.url));
        let rest = rest.split_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{}", rest.split('?').next().unwrap_or_default())
    }

    fn carry(&mut self, parcels: &[&Parcel]) -> Carried {
        let mut done = 0;
        // After a refusal: half as many, until one alone is refused.
        let mut most = usize::MAX;
        while done < parcels.len() {
            let rest = &parcels[done..];
            let count = self.fitting(rest).min(most);
            match self.post(&rest[..count]) {
                Answer::Delivered => done += count,
                Answer::Refused(reason) if count == 1 => return Carried::until(done, Trouble::Refused(reason)),
                Answer::Refused(_) => most = count / 2,
                Answer::Down(reason, retry_after) => {
                    return Carried::until(done, Trouble::Down { reason, retry_after });
                }
            }
        }
        Carried::all(done)
    }

    fn at_once(&self) -> usize {
        self.batch * 16
    }
}

/// `t=1700000000,v1=` and the HMAC-SHA256, in hex, of the time, a full stop and the body.
pub fn signature(secret: &[u8], seconds: u64, body: &[u8]) -> String {
    // Keys of any length do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return String::new();
    };
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    let hex: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("t={seconds},v1={hex}")
}

fn judge(mut response: Response<ureq::Body>) -> Answer {
    let status = response.status().as_u16();
    if (200..300).contains(&status) {
        return Answer::Delivered;
    }
    let retry_after = response
        .headers()
        .get("retry-after")
        .and_then(|value| parse_retry_after(value.to_str().ok()?, SystemTime::now()));
    let mut said = Vec::new();
    let _ = response
        .body_mut()
        .as_reader()
        .take(ANSWER_BYTES)
        .read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    let reason = match said.lines().next() {
        Some(line) if !line.trim().is_empty() => format!("HTTP status {status}: {}", line.trim()),
        _ => format!("HTTP status {status}"),
    };
    match status {
        400 | 409 | 413 | 415 | 422 => Answer::Refused(reason),
        _ => Answer::Down(reason, retry_after),
    }
}

fn parse_header(header: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let parsed = header
        .split_once(':')
        .and_then(|(name, value)| Some((name.trim().parse().ok()?, value.trim().parse().ok()?)));
    parsed.ok_or_else(|| {
        Failure::new(
            "the header cannot be understood",
            sentence(&format!("\"{header}\" is not of the form name: value")),
            "",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn signatures_are_those_of_anybody_else() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            signature(b"secret", 1_700_000_000, br#"{"a":1}"#),
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
    }

    proptest! {
        #[test]
        fn no_header_panics(header: String) {
            let _ = parse_header(&header);
        }
    }
}
