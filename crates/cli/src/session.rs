//! Sessions with the nodes of a group, through libpq as `psql` does it: connection strings and URIs, `PG*` variables,
//! service and password files, TLS and every method of authentication work as there.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use synod_libpq::{Conn, Dialing, Notice, Outcome, PqError, parse_conninfo};

use crate::failure::Failure;

/// What of another node's dsn says where it is; who we are and how we prove it stays as for the first node.
const WHERE: [&str; 4] = ["host", "hostaddr", "port", "dbname"];

/// One row, in text format.
pub type Row = Vec<Option<String>>;

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// libpq keywords.
    keywords: Vec<(String, String)>,
    /// In messages.
    pub whom: String,
    connect_timeout: Duration,
}

impl Target {
    /// What the user gave, or libpq's defaults.
    pub fn given(dsn: Option<&str>, connect_timeout: Duration) -> Result<Self, Failure> {
        let dsn = dsn.unwrap_or_default();
        let keywords = if dsn.contains('=') || dsn.contains("://") {
            parse_conninfo(dsn).map_err(|error| {
                Failure::new(
                    "the connection string cannot be understood",
                    crate::failure::sentence(&error.message),
                    "Write it as 'host=db1 port=5432 dbname=app user=admin' or postgresql://admin@db1/app.",
                )
            })?
        } else {
            // As psql: a bare word is the name of a database.
            vec![("dbname".to_owned(), dsn.to_owned())]
        };
        Ok(Self {
            keywords,
            whom: "the server".to_owned(),
            connect_timeout,
        })
    }

    /// The node `name`, which says that it is reached by `dsn`, as the same user and with the same options as this target.
    pub fn node(&self, name: &str, dsn: &str) -> Self {
        let there = parse_conninfo(dsn).unwrap_or_default();
        let ours = self
            .keywords
            .iter()
            .filter(|(keyword, _)| !WHERE.contains(&keyword.as_str()));
        let theirs = there.iter().filter(|(keyword, _)| WHERE.contains(&keyword.as_str()));
        Self {
            keywords: ours.chain(theirs).cloned().collect(),
            whom: format!("node \"{name}\""),
            connect_timeout: self.connect_timeout,
        }
    }

    /// Host, port and database of a node's dsn, for people.
    pub fn address(dsn: &str) -> String {
        let there = parse_conninfo(dsn).unwrap_or_default();
        let value = |wanted: &str| {
            there
                .iter()
                .find(|(keyword, _)| keyword == wanted)
                .map(|(_, value)| value.as_str())
        };
        let host = value("host").or(value("hostaddr")).unwrap_or("local");
        format!(
            "{host}:{}/{}",
            value("port").unwrap_or("5432"),
            value("dbname").unwrap_or_default()
        )
    }

    /// Connect.
    pub fn connect(&self, application: &str) -> Result<Session, Failure> {
        self.connect_with(application, &[])
    }

    /// Connect with these keywords, too.
    pub fn connect_with(&self, application: &str, more: &[(&str, &str)]) -> Result<Session, Failure> {
        let told = |error| Failure::on(&self.whom, error);
        let application = format!("synod {application}");
        let mut parameters: Vec<(&str, &str)> = self
            .keywords
            .iter()
            .map(|(keyword, value)| (keyword.as_str(), value.as_str()))
            .collect();
        parameters.push(("application_name", &application));
        parameters.push(("client_encoding", "UTF8"));
        parameters.extend(more);
        let conn = Conn::start(&parameters).map_err(told)?;
        let mut session = Session {
            conn,
            whom: self.whom.clone(),
            patience: self.connect_timeout,
        };
        session.dial().map_err(told)?;
        session.patience = Duration::MAX;
        session
            .execute(
                "SET search_path = pg_catalog, pg_temp; SET DateStyle = ISO; SET IntervalStyle = postgres; \
                 SET extra_float_digits = 3; SET bytea_output = hex; SET TimeZone = UTC; SET lc_monetary = \"C\"; \
                 SET array_nulls = on; \
                 SET quote_all_identifiers = off; SET row_security = off; \
                 SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
                 SET synod.read_consistency = local",
            )
            .map(|()| session)
    }
}

/// A connection.
pub struct Session {
    pub(crate) conn: Conn,
    /// In messages.
    pub whom: String,
    /// How long one statement may take.
    pub patience: Duration,
}

impl Session {
    fn dial(&mut self) -> Result<(), PqError> {
        let deadline = Instant::now() + self.patience;
        let mut write = true;
        loop {
            self.wait(write, Some(deadline))?;
            match self.conn.poll_connect() {
                Dialing::Reading => write = false,
                Dialing::Writing => write = true,
                Dialing::Ready => return Ok(()),
                Dialing::Failed => return Err(self.conn.error()),
            }
        }
    }

    /// Run statements whose rows nobody wants.
    pub fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        let done = self.conn.send_query(sql).and_then(|()| self.finish());
        done.map(drop).map_err(|error| Failure::on(&self.whom, error))
    }

    /// Run one statement by the simple protocol, the only one that a replication connection takes; its rows.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        let done = self.conn.send_query(sql).and_then(|()| self.finish());
        done.map_err(|error| Failure::on(&self.whom, error))
    }

    /// Run statements; how many rows each affected, in order, as far as they came.
    pub fn run_counted(&mut self, sql: &str, counts: &mut Vec<u64>) -> Result<(), PqError> {
        self.conn
            .send_query(sql)
            .and_then(|()| self.finish_counted(counts))
            .map(drop)
    }

    /// Run one statement; its rows.
    pub fn rows(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Vec<Row>, Failure> {
        let done = self
            .conn
            .send_query_params(sql, parameters)
            .and_then(|()| self.finish());
        done.map_err(|error| Failure::on(&self.whom, error))
    }

    /// The first column of the first row.
    pub fn value(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Option<String>, Failure> {
        let rows = self.rows(sql, parameters)?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
    }

    /// A statement that returns one JSON value.
    pub fn json(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Value, Failure> {
        let text = self.value(sql, parameters)?.unwrap_or_else(|| "null".into());
        serde_json::from_str(&text).map_err(|error| {
            Failure::new(
                format!("could not understand {}", self.whom),
                format!("Its answer is not JSON: {error}."),
                "Run the same version of synod on every node and here.",
            )
        })
    }

    /// What the server said beside its answers.
    pub fn notices(&mut self) -> Vec<Notice> {
        self.conn.take_notices()
    }

    fn finish(&mut self) -> Result<Vec<Row>, PqError> {
        self.finish_counted(&mut Vec::new())
    }

    fn finish_counted(&mut self, counts: &mut Vec<u64>) -> Result<Vec<Row>, PqError> {
        let deadline = Instant::now().checked_add(self.patience);
        while !self.conn.flush()? {
            self.wait(true, deadline)?;
            self.conn.consume_input()?;
        }
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            while self.conn.is_busy() {
                self.wait(false, deadline)?;
                self.conn.consume_input()?;
            }
            match self.conn.next_outcome() {
                None => break,
                Some(Outcome::Rows(found)) => {
                    counts.push(self.conn.affected());
                    rows = found;
                }
                Some(Outcome::Failed(error)) => {
                    failed.get_or_insert(error);
                    if self.conn.is_bad() {
                        break;
                    }
                }
                Some(Outcome::Command) => counts.push(self.conn.affected()),
                Some(Outcome::CopyOut | Outcome::CopyBoth) => return Err(plain("unexpected COPY")),
            }
        }
        failed.map_or(Ok(rows), Err)
    }

    pub(crate) fn wait(&self, write: bool, deadline: Option<Instant>) -> Result<(), PqError> {
        let Some(socket) = self.conn.borrowed_socket() else {
            return Err(self.conn.error());
        };
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(plain("no answer came in time"));
        }
        let left = left.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
        let wanted = if write { PollFlags::OUT } else { PollFlags::IN };
        match poll(&mut [PollFd::from_borrowed_fd(socket, wanted)], left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(plain(&error.to_string())),
        }
    }
}

fn plain(message: &str) -> PqError {
    PqError {
        message: message.into(),
        ..PqError::default()
    }
}
