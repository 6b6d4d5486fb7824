//! What the command says when it cannot do what it was asked: PostgreSQL's own form, ERROR, DETAIL, HINT.

use serde_json::{Value, json};
use synod_libpq::PqError;

/// Exit codes. 2 is clap's, for a command line that cannot be understood.
pub mod exit {
    /// Done, and nothing was found wrong.
    pub const GOOD: u8 = 0;
    /// Done; something is wrong with the group, a setting or the rows, and is told.
    pub const FOUND: u8 = 1;
    /// Not done: the error is told.
    pub const FAILED: u8 = 3;
}

/// An error for the user.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// SQLSTATE, when a server said it.
    pub sqlstate: Option<String>,
    /// Lower-case primary message.
    pub message: String,
    /// Sentences, or empty.
    pub detail: String,
    /// What to do about it, or empty.
    pub hint: String,
}

impl Failure {
    /// An error found by the command itself.
    pub fn new(message: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            sqlstate: None,
            message: message.into(),
            detail: detail.into(),
            hint: hint.into(),
        }
    }

    /// What went wrong on a connection to `whom`.
    pub fn on(whom: &str, error: PqError) -> Self {
        let missing = matches!(error.sqlstate.as_deref(), Some("3F000" | "42P01" | "42883"));
        if missing && error.message.contains("synod") {
            return Self {
                sqlstate: error.sqlstate,
                message: format!("the extension synod is not in the database of {whom}, or is another version"),
                detail: sentence(&error.message),
                hint: "Connect to the right database (--dsn), or run CREATE EXTENSION synod there.".into(),
            };
        }
        if error.sqlstate.is_none() {
            return Self::new(
                format!("could not talk to {whom}"),
                sentence(&error.message),
                error.hint.unwrap_or_else(|| {
                    "Check --dsn (or PGHOST, PGPORT, PGDATABASE, PGUSER), pg_hba.conf and that the server runs.".into()
                }),
            );
        }
        Self {
            sqlstate: error.sqlstate,
            message: error.message,
            detail: error.detail.unwrap_or_default(),
            hint: error.hint.unwrap_or_default(),
        }
    }

    /// As the server's own tools print it.
    pub fn text(&self) -> String {
        let mut text = format!("ERROR:  {}", self.message);
        for (word, what) in [("DETAIL", &self.detail), ("HINT", &self.hint)] {
            if !what.is_empty() {
                text.push_str(&format!("\n{word}:  {what}"));
            }
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "error": {
            "sqlstate": self.sqlstate,
            "message": self.message,
            "detail": (!self.detail.is_empty()).then_some(&self.detail),
            "hint": (!self.hint.is_empty()).then_some(&self.hint),
        } })
    }
}

/// A DETAIL is a sentence; libpq's messages are not, and some have several lines.
pub fn sentence(message: &str) -> String {
    let line = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let mut letters = line.chars();
    let first: String = letters
        .next()
        .map(|letter| letter.to_uppercase().collect())
        .unwrap_or_default();
    let stop = if line.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{}{stop}", letters.as_str())
}
