//! Errors as users meet them: the right SQLSTATE, a DETAIL that says what is wrong, a HINT that says what to do.

use postgres::Error;
use postgres::error::DbError;

/// Asserts that `result` was refused with one of `codes` and with message, DETAIL and HINT in PostgreSQL's style.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(what: &str, result: Result<T, Error>, codes: &[&str]) -> DbError {
    let error = failed(what, result, codes);
    let lower = error
        .message()
        .chars()
        .next()
        .is_some_and(|first| !first.is_uppercase());
    assert!(
        lower && !error.message().ends_with('.'),
        "{what}: message not in PostgreSQL's style: {error:?}"
    );
    for (part, text) in [("DETAIL", error.detail()), ("HINT", error.hint())] {
        let text = text.unwrap_or_else(|| panic!("{what}: no {part}: {error:?}"));
        assert!(
            text.ends_with(['.', ')', '?']),
            "{what}: {part} is no sentence: {text:?}"
        );
    }
    error
}

/// Asserts that `result` failed with one of `codes`.
#[track_caller]
pub fn failed<T: std::fmt::Debug>(what: &str, result: Result<T, Error>, codes: &[&str]) -> DbError {
    let error = match result {
        Ok(value) => panic!("{what}: not refused, returned {value:?}"),
        Err(error) => error,
    };
    let Some(database) = error.as_db_error() else {
        panic!("{what}: not an error of the server: {error:?}")
    };
    assert!(
        codes.contains(&database.code().code()),
        "{what}: SQLSTATE not among {codes:?}: {database:?}"
    );
    database.clone()
}
