//! A client that does what the documentation asks of applications: retry what was rolled back for serialisation, and
//! ask what became of a commit whose answer never came.

use std::time::{Duration, Instant};

use postgres::{Client, Error, Transaction};

use crate::server::Server;
use crate::try_wait_until;

/// How a transaction ended, as far as its client could find out.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The server said so.
    Committed(T),
    /// It is on no node and never will be.
    RolledBack(Failure),
    /// The answer to COMMIT was lost or was 08007. The id asks for the outcome later.
    Unknown {
        /// What `synod.current_transaction_id()` said before COMMIT.
        id: String,
        /// What the body returned.
        value: T,
    },
}

/// Why a transaction was given up.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An error that no repetition cures.
    #[error("{0}")]
    Permanent(#[source] Error),
    /// Still refused or rolled back when the time was over.
    #[error("given up after {attempts} attempts: {last}")]
    TimedOut {
        /// Number of attempts.
        attempts: u32,
        /// What the last one said.
        #[source]
        last: Error,
    },
}

/// A connection that is made anew when it is lost.
pub struct Session<'a> {
    server: &'a Server,
    database: String,
    client: Option<Client>,
    /// How long a transaction is repeated.
    pub patience: Duration,
    /// Attempts that ended in 40001 or 40P01.
    pub serialization_failures: u64,
}

impl<'a> Session<'a> {
    /// A session with the database `postgres` of `server`; connects when it is first used.
    pub fn new(server: &'a Server) -> Self {
        Self {
            server,
            database: "postgres".into(),
            client: None,
            patience: Duration::from_secs(30),
            serialization_failures: 0,
        }
    }

    /// The connection, made if there is none.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn client(&mut self) -> Result<&mut Client, Error> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = Some(self.server.try_client(&self.database)?);
        }
        Ok(self.client.as_mut().expect("just connected"))
    }

    /// Runs `body` in a transaction begun by `begin`, again after a rollback that a repetition can cure.
    pub fn transact<T>(
        &mut self,
        begin: &str,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, Error>,
    ) -> Outcome<T> {
        let start = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let error = match self.attempt(begin, &mut body) {
                Ok(outcome) => return outcome,
                Err(error) => error,
            };
            match sqlstate(&error) {
                Some("40001" | "40P01") => self.serialization_failures += 1,
                Some(code) if !transient(code) => return Outcome::RolledBack(Failure::Permanent(error)),
                _ => {}
            }
            if start.elapsed() > self.patience {
                return Outcome::RolledBack(Failure::TimedOut { attempts, last: error });
            }
        }
    }

    /// One attempt. An error means: rolled back for certain, since COMMIT was not sent or was answered with an error.
    fn attempt<T>(
        &mut self,
        begin: &str,
        body: &mut impl FnMut(&mut Transaction<'_>) -> Result<T, Error>,
    ) -> Result<Outcome<T>, Error> {
        let client = self.client()?;
        let mut transaction = client.transaction()?;
        if !begin.is_empty() {
            transaction.batch_execute(begin)?;
        }
        let value = body(&mut transaction)?;
        let row = transaction.query_one("SELECT synod.current_transaction_id()::text", &[])?;
        let id: Option<String> = row.get(0);
        match (transaction.commit(), id) {
            (Ok(()), _) => Ok(Outcome::Committed(value)),
            (Err(error), Some(id)) if in_doubt(&error) => Ok(Outcome::Unknown { id, value }),
            (Err(error), _) => Err(error),
        }
    }

    /// Asks until the outcome of `id` is known: `Some(true)` when it committed; nothing when it is still unknown at the
    /// deadline.
    pub fn resolve(&mut self, id: &str, deadline: Duration) -> Option<bool> {
        try_wait_until(deadline, || {
            let query = format!("SELECT synod.transaction_status('{id}')::text");
            let status: String = self.client().ok()?.query_one(&query, &[]).ok()?.get(0);
            match status.as_str() {
                "committed" => Some(true),
                "aborted" => Some(false),
                _ => None,
            }
        })
    }
}

/// The SQLSTATE of an error that a server sent.
pub fn sqlstate(error: &Error) -> Option<&str> {
    error.code().map(postgres::error::SqlState::code)
}

/// No answer to COMMIT, or the answer "unknown", or the end of the backend after COMMIT was sent.
fn in_doubt(error: &Error) -> bool {
    match sqlstate(error) {
        None => true,
        Some(code) => code == "08007" || code.starts_with("57P0") && code != "57P03",
    }
}

/// Starting up, shutting down, no quorum, connection gone, asked to try again.
fn transient(code: &str) -> bool {
    code.starts_with("57P0") || code.starts_with("08") || matches!(code, "40001" | "40P01" | "53300")
}
