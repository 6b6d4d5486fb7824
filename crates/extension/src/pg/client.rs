//! A blocking SQL client for functions that talk to another node: joining, comparing tables.
//!
//! Waits on the socket and this process' latch, so that cancel, terminate and the postmaster's death end every wait. A
//! PostgreSQL ERROR raised there unwinds and closes the connection; the other server then ends its session.

use std::ffi::{c_int, c_long};
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};

use super::libpq::{Conn, CopyData, Dialing, Outcome, PqError, parse_conninfo};
use super::{latch, server};
use crate::errors::UserError;

/// How long a connection attempt may take, unless the dsn says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long each step of a clean-up may take.
const HASTY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a session depends on, whatever is set for the role, the database or the server: neither how long anything may take, nor how
/// values are written and read.
const SETTINGS: &str = "SET search_path = pg_catalog, pg_temp; SET statement_timeout = 0; SET lock_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0; \
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'; \
    SET DateStyle = ISO; SET IntervalStyle = postgres; SET extra_float_digits = 3; SET array_nulls = on; \
    SET lc_monetary = 'C'; SET xmloption = content; SET row_security = off";

/// One row, in text format.
pub type Row = Vec<Option<String>>;

/// A connection to another node (or to this one, from outside).
pub struct Client {
    conn: Conn,
    /// Cleaning up after an error: no interrupts are looked at, and no wait is long.
    hasty: bool,
    /// What is done ends here at the latest.
    until: Option<Instant>,
}

impl Client {
    /// Connect. `application` becomes the session's `application_name`.
    pub fn connect(dsn: &str, application: &str) -> Result<Self, PqError> {
        Self::open(dsn, application, false, None)
    }

    /// As [`Client::connect`], where nobody is to wait for one who does not answer: neither for the connection longer than that, nor for all
    /// that is asked then.
    pub fn connect_soon(dsn: &str, application: &str, patience: Duration) -> Result<Self, PqError> {
        Self::open(dsn, application, false, Some(patience))
    }

    /// Connect in order to clean up after an error: no interrupts are looked at, and no wait is long.
    pub fn connect_hastily(dsn: &str, application: &str) -> Result<Self, PqError> {
        Self::open(dsn, application, true, None)
    }

    fn open(dsn: &str, application: &str, hasty: bool, patience: Option<Duration>) -> Result<Self, PqError> {
        let parsed = parse_conninfo(dsn)?;
        let seconds = parsed.iter().find(|(keyword, _)| keyword == "connect_timeout");
        let timeout = seconds
            .and_then(|(_, value)| value.parse().ok())
            .filter(|seconds| *seconds > 0)
            .map_or(CONNECT_TIMEOUT, Duration::from_secs);
        let timeout = patience.map_or(timeout, |patience| patience.min(timeout));
        let deadline = Instant::now() + timeout;
        let encoding = server::encoding();
        let conn = Conn::start(&[
            ("dbname", dsn),
            ("application_name", application),
            ("client_encoding", &encoding),
            ("keepalives", "1"),
            ("keepalives_idle", "10"),
            ("tcp_user_timeout", "30000"),
        ])?;
        let mut client = Self {
            conn,
            hasty,
            until: None,
        };
        let mut write = true;
        loop {
            client.wait(write, Some(deadline))?;
            match client.conn.poll_connect() {
                Dialing::Reading => write = false,
                Dialing::Writing => write = true,
                Dialing::Failed => return Err(client.conn.error()),
                Dialing::Ready => break,
            }
        }
        client.conn.set_nonblocking()?;
        client.until = patience.map(|patience| Instant::now() + patience);
        // Whatever is set for the role or database: ours take as long as they take, and read what is there.
        client.execute(SETTINGS)?;
        Ok(client)
    }

    /// The process at the other end.
    pub fn backend_pid(&self) -> i32 {
        self.conn.backend_pid()
    }

    /// Run one or more statements whose rows nobody wants.
    pub fn execute(&mut self, sql: &str) -> Result<(), PqError> {
        self.conn.send_query(sql)?;
        self.finish().map(drop)
    }

    /// Run one statement with parameters in text format; its rows.
    pub fn query(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Vec<Row>, PqError> {
        self.conn.send_query_params(sql, parameters)?;
        self.finish()
    }

    /// All results of what was sent: the rows of the last one, or the first error.
    fn finish(&mut self) -> Result<Vec<Row>, PqError> {
        self.push_out()?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            self.wait_for_result()?;
            match self.conn.next_outcome() {
                None => break,
                Some(Outcome::Rows(found)) => rows = found,
                Some(Outcome::Command) => {}
                Some(Outcome::Failed(error)) => {
                    failed.get_or_insert(error);
                    if self.conn.is_bad() {
                        break;
                    }
                }
                Some(Outcome::CopyOut | Outcome::CopyBoth) => {
                    return Err(PqError {
                        message: "unexpected COPY".into(),
                        ..PqError::default()
                    });
                }
            }
        }
        failed.map_or(Ok(rows), Err)
    }

    /// Begin `COPY ... TO STDOUT`; [`Self::next_chunk`] has the data.
    pub fn begin_copy_out(&mut self, sql: &str) -> Result<(), PqError> {
        self.conn.send_query(sql)?;
        self.push_out()?;
        self.wait_for_result()?;
        match self.conn.next_outcome() {
            Some(Outcome::CopyOut) => Ok(()),
            Some(Outcome::Failed(error)) => {
                self.finish().ok();
                Err(error)
            }
            _ => Err(PqError {
                message: "no COPY data came".into(),
                ..PqError::default()
            }),
        }
    }

    /// The next piece of COPY data (a row in text format), `None` after the last.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, PqError> {
        loop {
            match self.conn.copy_data()? {
                CopyData::Data(data) => return Ok(Some(data)),
                CopyData::End => return self.finish().map(|_| None),
                CopyData::Pending => {
                    self.wait(false, self.deadline())?;
                    self.conn.consume_input()?;
                }
            }
        }
    }

    /// From here on no interrupts are looked at, and nothing takes longer than until then.
    pub fn hurry_until(&mut self, deadline: Instant) {
        self.hasty = true;
        self.until = Some(deadline);
    }

    fn deadline(&self) -> Option<Instant> {
        let soon = self.hasty.then(|| Instant::now() + HASTY_TIMEOUT);
        soon.into_iter().chain(self.until).min()
    }

    fn push_out(&mut self) -> Result<(), PqError> {
        while !self.conn.flush()? {
            self.wait(true, self.deadline())?;
            self.conn.consume_input()?;
        }
        Ok(())
    }

    fn wait_for_result(&mut self) -> Result<(), PqError> {
        while self.conn.is_busy() {
            self.wait(false, self.deadline())?;
            self.conn.consume_input()?;
        }
        Ok(())
    }

    /// Until the socket is ready. Raises on cancel and terminate.
    fn wait(&self, write: bool, deadline: Option<Instant>) -> Result<(), PqError> {
        let Some(socket) = self.conn.socket() else {
            return Err(self.conn.error());
        };
        let wanted = if write {
            pg_sys::WL_SOCKET_WRITEABLE
        } else {
            pg_sys::WL_SOCKET_READABLE
        };
        loop {
            let left = deadline.map_or(Duration::from_secs(60), |at| {
                at.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Err(PqError {
                    message: "timeout expired".into(),
                    ..PqError::default()
                });
            }
            let flags = wanted | pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
            // SAFETY: own latch and a socket that the connection owns; no lock is held here by us.
            let events = unsafe {
                pg_sys::WaitLatchOrSocket(
                    pg_sys::MyLatch,
                    flags as c_int,
                    socket,
                    left.as_millis() as c_long + 1,
                    super::wait_event::number(super::wait_event::WaitEvent::Node),
                )
            } as u32;
            if events & pg_sys::WL_LATCH_SET != 0 {
                latch::reset();
                if !self.hasty {
                    pgrx::check_for_interrupts!();
                }
            }
            if events & wanted != 0 {
                return Ok(());
            }
        }
    }
}

/// An SQLSTATE in text form as pgrx knows it.
pub fn code(sqlstate: &str) -> PgSqlErrorCode {
    let packed = sqlstate
        .bytes()
        .rev()
        .fold(0i32, |code, byte| code << 6 | i32::from(byte.wrapping_sub(b'0') & 0x3f));
    PgSqlErrorCode::from(packed)
}

/// What the user is told when talking to another node fails. `whom` says to whom: "the node given as via".
pub fn explain(error: PqError, whom: &str) -> UserError {
    let Some(state) = error.sqlstate.as_deref() else {
        return unreachable_peer(&error, whom);
    };
    match state {
        // No such schema, function, procedure or relation: all of ours are made by CREATE EXTENSION.
        "3F000" | "42883" | "42P01" => UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{whom} does not have the extension synod"),
            format!("It says: {}.", error.message),
            "Run CREATE EXTENSION synod in that database, with the same version of synod.",
        ),
        "42501" => UserError::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("the role in the dsn may not do this on {whom}"),
            format!("It says: {}.", error.message),
            "Use a superuser, or grant the roles synod_admin and synod_replicator there.",
        ),
        state => UserError::new(
            code(state),
            error.message,
            error.detail.unwrap_or_else(|| format!("This was said by {whom}.")),
            error.hint.unwrap_or_else(|| "See the server log of that node.".into()),
        ),
    }
}

/// libpq has no SQLSTATE for failed connections, but it passes on the server's message.
fn unreachable_peer(error: &PqError, whom: &str) -> UserError {
    let said = &error.message;
    let (code, hint) = if said.contains("password authentication failed") || said.contains("no password supplied") {
        (
            PgSqlErrorCode::ERRCODE_INVALID_PASSWORD,
            "Correct the password in the dsn, or use a password file.",
        )
    } else if said.contains("no pg_hba.conf entry") || said.contains("authentication failed") {
        (
            PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            "Let this server in by that server's pg_hba.conf, as the role named in the dsn.",
        )
    } else {
        (
            PgSqlErrorCode::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
            "Check the dsn (host, port, dbname, user), and that the server runs and listens there.",
        )
    };
    UserError::new(
        code,
        format!("could not reach {whom}"),
        format!("{}.", said.trim_end_matches('.')),
        hint,
    )
}
