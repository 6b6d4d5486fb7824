//! URLs of sinks.

pub use url::Url;

/// A URL. What is wrong with one says nothing of its content, which may be a password.
///
/// # Errors
/// It is none.
pub fn parse(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| error.to_string())
}

/// The host, without the brackets of an IPv6 address.
#[must_use]
pub fn host(url: &Url) -> Option<String> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(host.trim_matches(['[', ']']).to_owned())
}

/// `%40` is `@`; nothing is none.
#[must_use]
pub fn decoded(text: &str) -> Option<String> {
    let query = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    let (_, value) = url::form_urlencoded::parse(query.as_bytes()).next()?;
    (!value.is_empty()).then(|| value.into_owned())
}

/// What stands after the question mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Only these names may be there.
    ///
    /// # Errors
    /// Another one is.
    pub fn of(url: &Url, known: &[&str]) -> Result<Self, String> {
        let pairs = url
            .query_pairs()
            .map(|(name, value)| (name.into_owned(), value.into_owned()));
        let pairs: Vec<(String, String)> = pairs.collect();
        match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(format!("\"{name}\" is not known there, only {}", known.join(", "))),
            None => Ok(Self(pairs)),
        }
    }

    /// The first of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = parse("nats://me:a%40b+c%26d@[::1]:4222/?subject=a.%7Btable%7D&stream=s").unwrap();
        assert_eq!(host(&url).as_deref(), Some("::1"));
        assert_eq!(url.password().and_then(decoded).as_deref(), Some("a@b+c&d"));
        assert_eq!(decoded("a&b").as_deref(), Some("a&b"));
        assert_eq!(decoded(""), None);
        let query = Query::of(&url, &["subject", "stream"]).unwrap();
        assert_eq!(query.get("subject").as_deref(), Some("a.{table}"));
        assert_eq!(query.get("nothing"), None);
        assert!(Query::of(&url, &["subject"]).unwrap_err().contains("stream"));
    }

    proptest! {
        #[test]
        fn no_url_panics(text: String) {
            let _ = decoded(&text);
            if let Ok(url) = parse(&format!("redis://{text}")) {
                let _ = (host(&url), Query::of(&url, &["key"]));
            }
        }
    }
}
