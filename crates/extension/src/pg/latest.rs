//! Asking the catalogs as they are now, also in a transaction whose own snapshot is an old one.

use pgrx::{FromDatum, IntoDatum, PgSqlErrorCode, pg_sys};

use crate::errors::UserError;

/// The array of oids that a query gives in its only row and column; none for NULL. `arguments` are arrays of oids, too. `what` it looks
/// for is told when it fails.
pub fn oids(query: &std::ffi::CStr, arguments: &[Vec<pg_sys::Oid>], what: &str) -> Result<Vec<pg_sys::Oid>, UserError> {
    let mut values: Vec<pg_sys::Datum> = arguments
        .iter()
        .map(|argument| argument.clone().into_datum().unwrap_or(pg_sys::Datum::from(0)))
        .collect();
    let mut types = vec![pg_sys::OIDARRAYOID; arguments.len()];
    // SAFETY: inside a transaction. The snapshot is popped and SPI ended below, or by the abort of whoever catches the error; an error
    // of the query is raised past this frame, whose vectors are freed as it unwinds. What SPI gives is copied before it ends.
    let found = unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let mut found = Err(pg_sys::SPI_ERROR_CONNECT);
        if pg_sys::SPI_connect() == pg_sys::SPI_OK_CONNECT as i32 {
            // Read-only, which is what makes it use the active snapshot.
            let done = pg_sys::SPI_execute_with_args(
                query.as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                std::ptr::null(),
                true,
                1,
            );
            found = if done == pg_sys::SPI_OK_SELECT as i32 && pg_sys::SPI_processed == 1 {
                let (mut is_null, table) = (false, pg_sys::SPI_tuptable);
                let value = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
                Ok(Vec::<pg_sys::Oid>::from_datum(value, is_null).unwrap_or_default())
            } else {
                Err(done)
            };
            pg_sys::SPI_finish();
        }
        pg_sys::PopActiveSnapshot();
        found
    };
    found.map_err(|code| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("could not look up {what}: SPI says {code}"),
            "",
            "",
        )
    })
}
