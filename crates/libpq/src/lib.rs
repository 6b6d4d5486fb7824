//! libpq, declared by hand, and a safe wrapper that never blocks.
//!
//! Only what links, joins and the command `synod` need. Everything goes through [`Conn`], which owns one `PGconn` and is
//! used from one thread at a time. libpq neither raises PostgreSQL errors nor calls back into the server, so in the server
//! no guard is needed around it, and dropping a [`Conn`] while unwinding is fine. The one thing in it that may block is the
//! resolution of host names in [`Conn::start`]: links resolve them beforehand, on a thread of their own.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Mutex;

#[repr(C)]
struct PGconn {
    _opaque: [u8; 0],
}

#[repr(C)]
struct PGresult {
    _opaque: [u8; 0],
}

#[repr(C)]
struct PQconninfoOption {
    keyword: *mut c_char,
    envvar: *mut c_char,
    compiled: *mut c_char,
    val: *mut c_char,
    label: *mut c_char,
    dispchar: *mut c_char,
    dispsize: c_int,
}

type NoticeReceiver = unsafe extern "C" fn(*mut std::ffi::c_void, *const PGresult);

unsafe extern "C" {
    fn PQconnectStartParams(keywords: *const *const c_char, values: *const *const c_char, expand: c_int)
    -> *mut PGconn;
    fn PQconnectPoll(conn: *mut PGconn) -> c_int;
    fn PQstatus(conn: *const PGconn) -> c_int;
    fn PQsocket(conn: *const PGconn) -> c_int;
    fn PQbackendPID(conn: *const PGconn) -> c_int;
    fn PQfinish(conn: *mut PGconn);
    fn PQerrorMessage(conn: *const PGconn) -> *const c_char;
    fn PQsetnonblocking(conn: *mut PGconn, on: c_int) -> c_int;
    fn PQsetNoticeReceiver(conn: *mut PGconn, to: NoticeReceiver, arg: *mut std::ffi::c_void) -> NoticeReceiver;
    fn PQsendQuery(conn: *mut PGconn, sql: *const c_char) -> c_int;
    fn PQsendQueryParams(
        conn: *mut PGconn,
        sql: *const c_char,
        count: c_int,
        types: *const u32,
        values: *const *const c_char,
        lengths: *const c_int,
        formats: *const c_int,
        result_format: c_int,
    ) -> c_int;
    fn PQflush(conn: *mut PGconn) -> c_int;
    fn PQconsumeInput(conn: *mut PGconn) -> c_int;
    fn PQisBusy(conn: *mut PGconn) -> c_int;
    fn PQgetResult(conn: *mut PGconn) -> *mut PGresult;
    fn PQclear(result: *mut PGresult);
    fn PQresultStatus(result: *const PGresult) -> c_int;
    fn PQresultErrorField(result: *const PGresult, field: c_int) -> *const c_char;
    fn PQntuples(result: *const PGresult) -> c_int;
    fn PQnfields(result: *const PGresult) -> c_int;
    fn PQgetisnull(result: *const PGresult, row: c_int, column: c_int) -> c_int;
    fn PQgetvalue(result: *const PGresult, row: c_int, column: c_int) -> *const c_char;
    fn PQgetlength(result: *const PGresult, row: c_int, column: c_int) -> c_int;
    fn PQputCopyData(conn: *mut PGconn, buffer: *const c_char, bytes: c_int) -> c_int;
    fn PQputCopyEnd(conn: *mut PGconn, error: *const c_char) -> c_int;
    fn PQcmdTuples(result: *mut PGresult) -> *const c_char;
    fn PQgetCopyData(conn: *mut PGconn, buffer: *mut *mut c_char, is_async: c_int) -> c_int;
    fn PQfreemem(memory: *mut std::ffi::c_void);
    fn PQconninfoParse(info: *const c_char, error: *mut *mut c_char) -> *mut PQconninfoOption;
    fn PQconninfoFree(options: *mut PQconninfoOption);
}

/// What went wrong on a connection, as told by libpq or by the server at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PqError {
    /// The server's SQLSTATE; `None` when libpq itself failed (no route, refused, closed).
    pub sqlstate: Option<String>,
    /// Primary message, without a trailing line break.
    pub message: String,
    /// The server's DETAIL.
    pub detail: Option<String>,
    /// The server's HINT.
    pub hint: Option<String>,
}

/// How far a connection attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialing {
    /// Wait until the socket is readable.
    Reading,
    /// Wait until the socket is writable.
    Writing,
    /// Connected.
    Ready,
    /// Over; see [`Conn::error`].
    Failed,
}

/// One result of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A command without rows.
    Command,
    /// Rows in text format, NULL as `None`.
    Rows(Vec<Vec<Option<String>>>),
    /// COPY TO STDOUT has begun.
    CopyOut,
    /// Both directions stream.
    CopyBoth,
    /// The statement failed.
    Failed(PqError),
}

/// What [`Conn::copy_data`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyData {
    /// One CopyData message.
    Data(Vec<u8>),
    /// Nothing yet.
    Pending,
    /// The stream is over; [`Conn::next_outcome`] tells how.
    End,
}

/// Something the server said beside its answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// `NOTICE`, `WARNING`, ..., in the server's language.
    pub severity: String,
    /// What it says.
    pub said: PqError,
}

/// Notices kept until somebody asks for them; a peer that chatters fills no memory.
const MAX_NOTICES: usize = 64;

/// An owned libpq connection.
pub struct Conn {
    raw: NonNull<PGconn>,
    /// Where [`receive_notice`] puts what it hears. Behind a lock, as libpq holds its address.
    notices: Box<Mutex<Vec<Notice>>>,
    /// See [`Conn::affected`].
    affected: u64,
}

// SAFETY: libpq lets any thread use a connection, one at a time; `&mut self` and the absence of `Sync` see to that.
unsafe impl Send for Conn {}

unsafe extern "C" fn receive_notice(place: *mut std::ffi::c_void, result: *const PGresult) {
    // SAFETY: `place` is the `notices` of the connection that libpq is working for, which outlives this call.
    let place = unsafe { &*place.cast::<Mutex<Vec<Notice>>>() };
    if let Ok(mut notices) = place.lock()
        && notices.len() < MAX_NOTICES
    {
        notices.push(Notice {
            severity: field(result, b'S').unwrap_or_default(),
            said: PqError {
                sqlstate: field(result, b'C'),
                message: field(result, b'M').unwrap_or_default(),
                detail: field(result, b'D'),
                hint: field(result, b'H'),
            },
        });
    }
}

/// A field of an error or notice, by the protocol's letter.
fn field(result: *const PGresult, code: u8) -> Option<String> {
    // SAFETY: the callers hold a live result; an unknown field is NULL.
    text(unsafe { PQresultErrorField(result, c_int::from(code)) })
}

fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: libpq hands out NUL-terminated strings that live at least until the next call on the same object.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// libpq ends its messages with a line break.
fn message(pointer: *const c_char) -> Option<String> {
    text(pointer)
        .map(|text| text.trim_end().to_string())
        .filter(|text| !text.is_empty())
}

fn c_string(value: &str) -> Result<CString, PqError> {
    CString::new(value).map_err(|_| PqError {
        message: "a NUL byte is not allowed here".into(),
        ..PqError::default()
    })
}

impl Conn {
    /// Begin to connect. `parameters` are libpq keywords; a later one overrides what an earlier `dbname`, which may be
    /// a whole connection string, says.
    pub fn start(parameters: &[(&str, &str)]) -> Result<Self, PqError> {
        let mut owned = Vec::with_capacity(parameters.len());
        for (keyword, value) in parameters {
            owned.push((c_string(keyword)?, c_string(value)?));
        }
        let mut keywords: Vec<*const c_char> = owned.iter().map(|(keyword, _)| keyword.as_ptr()).collect();
        let mut values: Vec<*const c_char> = owned.iter().map(|(_, value)| value.as_ptr()).collect();
        keywords.push(ptr::null());
        values.push(ptr::null());
        // SAFETY: both arrays are NULL-terminated and of the same length; libpq copies what it keeps.
        let raw = unsafe { PQconnectStartParams(keywords.as_ptr(), values.as_ptr(), 1) };
        let Some(raw) = NonNull::new(raw) else {
            return Err(PqError {
                message: "out of memory".into(),
                ..PqError::default()
            });
        };
        let conn = Self {
            raw,
            notices: Box::default(),
            affected: 0,
        };
        let place = ptr::from_ref(&*conn.notices).cast_mut().cast();
        // SAFETY: the connection is live; `notices` stays where it is until the connection is finished.
        unsafe { PQsetNoticeReceiver(conn.raw.as_ptr(), receive_notice, place) };
        if conn.is_bad() { Err(conn.error()) } else { Ok(conn) }
    }

    /// Go on connecting, after the socket was found ready.
    pub fn poll_connect(&mut self) -> Dialing {
        // SAFETY: the connection is live.
        match unsafe { PQconnectPoll(self.raw.as_ptr()) } {
            1 => Dialing::Reading,
            2 => Dialing::Writing,
            3 => Dialing::Ready,
            _ => Dialing::Failed,
        }
    }

    /// From here on nothing that is sent waits for the socket.
    pub fn set_nonblocking(&mut self) -> Result<(), PqError> {
        // SAFETY: the connection is live.
        self.check(unsafe { PQsetnonblocking(self.raw.as_ptr(), 1) } == 0)
    }

    /// The socket to wait on. It may change while connecting.
    pub fn socket(&self) -> Option<RawFd> {
        // SAFETY: the connection is live.
        let socket = unsafe { PQsocket(self.raw.as_ptr()) };
        (socket >= 0).then_some(socket)
    }

    /// The same, for safe system calls.
    pub fn borrowed_socket(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: open for as long as the connection neither moves on nor ends, which takes `&mut self`.
        self.socket().map(|socket| unsafe { BorrowedFd::borrow_raw(socket) })
    }

    /// The process at the other end; 0 while there is none.
    pub fn backend_pid(&self) -> i32 {
        // SAFETY: the connection is live.
        unsafe { PQbackendPID(self.raw.as_ptr()) }
    }

    /// True when the connection has failed.
    pub fn is_bad(&self) -> bool {
        // SAFETY: the connection is live.
        unsafe { PQstatus(self.raw.as_ptr()) == 1 }
    }

    /// libpq's last message.
    pub fn error(&self) -> PqError {
        // SAFETY: the connection is live.
        let message = message(unsafe { PQerrorMessage(self.raw.as_ptr()) });
        PqError {
            message: message.unwrap_or_else(|| "the connection was lost".into()),
            ..PqError::default()
        }
    }

    /// What the server said beside its answers since this was last asked.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.notices
            .lock()
            .map(|mut notices| std::mem::take(&mut *notices))
            .unwrap_or_default()
    }

    /// Send a simple query.
    pub fn send_query(&mut self, sql: &str) -> Result<(), PqError> {
        let sql = c_string(sql)?;
        // SAFETY: the connection is live, the string NUL-terminated and copied.
        self.check(unsafe { PQsendQuery(self.raw.as_ptr(), sql.as_ptr()) } == 1)
    }

    /// Send a query with parameters in text format.
    pub fn send_query_params(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<(), PqError> {
        let sql = c_string(sql)?;
        let mut owned = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            owned.push(parameter.map(c_string).transpose()?);
        }
        let values: Vec<*const c_char> = owned
            .iter()
            .map(|value| value.as_ref().map_or(ptr::null(), |value| value.as_ptr()))
            .collect();
        // SAFETY: `values` has the stated length and outlives the call; NULL arrays mean "text, types inferred".
        let sent = unsafe {
            PQsendQueryParams(
                self.raw.as_ptr(),
                sql.as_ptr(),
                values.len() as c_int,
                ptr::null(),
                values.as_ptr(),
                ptr::null(),
                ptr::null(),
                0,
            )
        };
        self.check(sent == 1)
    }

    /// Push out what is buffered. `Ok(false)`: some of it is left, wait until the socket is writable.
    pub fn flush(&mut self) -> Result<bool, PqError> {
        // SAFETY: the connection is live.
        match unsafe { PQflush(self.raw.as_ptr()) } {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(self.error()),
        }
    }

    /// Read what the socket has.
    pub fn consume_input(&mut self) -> Result<(), PqError> {
        // SAFETY: the connection is live.
        self.check(unsafe { PQconsumeInput(self.raw.as_ptr()) } == 1)
    }

    /// True while [`Self::next_outcome`] would block.
    pub fn is_busy(&self) -> bool {
        // SAFETY: the connection is live.
        unsafe { PQisBusy(self.raw.as_ptr()) == 1 }
    }

    /// The next result of the query, `None` after the last. Blocks while [`Self::is_busy`].
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        // SAFETY: the connection is live; the result is freed below.
        let result = NonNull::new(unsafe { PQgetResult(self.raw.as_ptr()) })?;
        // SAFETY: `result` is live until PQclear.
        let outcome = match unsafe { PQresultStatus(result.as_ptr()) } {
            0 | 1 => Outcome::Command,
            2 => Outcome::Rows(rows(result)),
            3 => Outcome::CopyOut,
            8 => Outcome::CopyBoth,
            _ => Outcome::Failed(self.result_error(result)),
        };
        // SAFETY: `result` is live; the string is empty for commands that do not count rows.
        let affected = text(unsafe { PQcmdTuples(result.as_ptr()) });
        self.affected = affected.and_then(|count| count.parse().ok()).unwrap_or(0);
        // SAFETY: not used after this.
        unsafe { PQclear(result.as_ptr()) };
        Some(outcome)
    }

    /// How many rows the command of the last [`Self::next_outcome`] affected; 0 for one that does not count.
    pub fn affected(&self) -> u64 {
        self.affected
    }

    fn result_error(&self, result: NonNull<PGresult>) -> PqError {
        let field = |code: u8| field(result.as_ptr(), code);
        match field(b'M') {
            Some(message) => PqError {
                sqlstate: field(b'C'),
                message,
                detail: field(b'D'),
                hint: field(b'H'),
            },
            None => self.error(),
        }
    }

    /// The next CopyData message, without waiting. Call [`Self::consume_input`] first.
    pub fn copy_data(&mut self) -> Result<CopyData, PqError> {
        let mut buffer: *mut c_char = ptr::null_mut();
        // SAFETY: the connection is live; a positive answer sets `buffer` to that many bytes, ours to free.
        match unsafe { PQgetCopyData(self.raw.as_ptr(), &mut buffer, 1) } {
            0 => Ok(CopyData::Pending),
            -1 => Ok(CopyData::End),
            length if length > 0 => {
                // SAFETY: see above.
                let data = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length as usize) }.to_vec();
                // SAFETY: allocated by libpq, freed once.
                unsafe { PQfreemem(buffer.cast()) };
                Ok(CopyData::Data(data))
            }
            _ => Err(self.error()),
        }
    }

    /// Queue one CopyData message; [`Self::flush`] sends it. The caller keeps the amount bounded.
    pub fn put_copy_data(&mut self, data: &[u8]) -> Result<(), PqError> {
        let Ok(length) = c_int::try_from(data.len()) else {
            return Err(PqError {
                message: "the message is too long".into(),
                ..PqError::default()
            });
        };
        // SAFETY: the connection is live; libpq copies the bytes.
        self.check(unsafe { PQputCopyData(self.raw.as_ptr(), data.as_ptr().cast(), length) } == 1)
    }

    /// Nothing more comes from this side of the copy; [`Self::flush`] sends it.
    pub fn put_copy_end(&mut self) -> Result<(), PqError> {
        // SAFETY: the connection is live; NULL means that the copy is good.
        self.check(unsafe { PQputCopyEnd(self.raw.as_ptr(), ptr::null()) } == 1)
    }

    fn check(&self, good: bool) -> Result<(), PqError> {
        if good { Ok(()) } else { Err(self.error()) }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // SAFETY: owned, finished once.
        unsafe { PQfinish(self.raw.as_ptr()) }
    }
}

fn rows(result: NonNull<PGresult>) -> Vec<Vec<Option<String>>> {
    let result = result.as_ptr();
    // SAFETY: the caller holds the result; indexes stay within its counts, lengths come from it.
    unsafe {
        (0..PQntuples(result))
            .map(|row| {
                (0..PQnfields(result))
                    .map(|column| {
                        if PQgetisnull(result, row, column) == 1 {
                            return None;
                        }
                        let length = PQgetlength(result, row, column) as usize;
                        let bytes = std::slice::from_raw_parts(PQgetvalue(result, row, column).cast::<u8>(), length);
                        Some(String::from_utf8_lossy(bytes).into_owned())
                    })
                    .collect()
            })
            .collect()
    }
}

/// The keywords that a connection string sets, or libpq's complaint about it.
pub fn parse_conninfo(dsn: &str) -> Result<Vec<(String, String)>, PqError> {
    let told = |(keyword, value, _)| (keyword, value);
    Ok(settings(dsn)?.into_iter().map(told).collect())
}

/// A connection string for people to read: without passwords and whatever else libpq says is to be hidden. One that libpq
/// does not understand is not shown at all.
pub fn without_secrets(dsn: &str) -> String {
    let Ok(settings) = settings(dsn) else {
        return String::new();
    };
    if settings.iter().all(|(.., is_secret)| !is_secret) {
        return dsn.to_owned();
    }
    let shown = settings.iter().filter(|(.., is_secret)| !is_secret);
    let shown = shown.map(|(keyword, value, _)| format!("{keyword}={}", quoted(value)));
    shown.collect::<Vec<_>>().join(" ")
}

fn quoted(value: &str) -> String {
    let plain = |character: char| !character.is_whitespace() && character != '\'' && character != '\\';
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Keyword, value, and whether the value is a secret.
fn settings(dsn: &str) -> Result<Vec<(String, String, bool)>, PqError> {
    let dsn = c_string(dsn)?;
    let mut complaint: *mut c_char = ptr::null_mut();
    // SAFETY: NUL-terminated; on failure `complaint` is set to a string that is ours to free.
    let options = unsafe { PQconninfoParse(dsn.as_ptr(), &mut complaint) };
    if options.is_null() {
        let message = message(complaint).unwrap_or_else(|| "out of memory".into());
        // SAFETY: allocated by libpq (or NULL), freed once.
        unsafe { PQfreemem(complaint.cast()) };
        return Err(PqError {
            message,
            ..PqError::default()
        });
    }
    let mut found = Vec::new();
    let mut option = options;
    // SAFETY: the array ends with a NULL keyword; strings live until PQconninfoFree.
    unsafe {
        while !(*option).keyword.is_null() {
            if let (Some(keyword), Some(value)) = (text((*option).keyword), text((*option).val)) {
                let hidden = text((*option).dispchar).is_some_and(|display| display.contains('*'));
                // Keys that stand for a password are not marked as one.
                let is_secret = hidden || keyword.starts_with("scram_");
                found.push((keyword, value, is_secret));
            }
            option = option.add(1);
        }
        PQconninfoFree(options);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::without_secrets;

    #[test]
    fn secrets_are_not_shown_however_they_are_written() {
        for (dsn, shown) in [
            ("host=a password=secret dbname=b", "dbname=b host=a"),
            ("password = 'a \\' b' host=c", "host=c"),
            ("host=a  port=1", "host=a  port=1"),
            ("host=a sslpassword=secret", "host=a"),
            ("host='a b' password=x", "host='a b'"),
            (
                "postgresql://user:secret@host:5432/db",
                "user=user dbname=db host=host port=5432",
            ),
            (
                "postgresql://user@host/db?password=secret",
                "user=user dbname=db host=host",
            ),
            (
                "postgresql://user:se%40cret@h1,h2/db?sslpassword=other",
                "user=user dbname=db host=h1,h2 port=,",
            ),
            ("postgres://host/db", "postgres://host/db"),
            ("password", ""),
            ("nonsense password=secret", ""),
        ] {
            let mut words: Vec<_> = shown.split(' ').collect();
            let told = without_secrets(dsn);
            let mut found: Vec<_> = told.split(' ').collect();
            words.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, words, "{dsn}");
        }
    }
}
