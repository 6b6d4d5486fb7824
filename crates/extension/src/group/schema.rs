//! The definitions that a joining database lacks, as the server's own `pg_dump` writes them.
//!
//! A database without objects of its own gets the whole schema of the member that it copies from; another one only the
//! tables of the group that are missing there, whose types and functions it must have. The dump sees the snapshot that the
//! rows are copied from, and what it says is run in the transaction that copies them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pgrx::PgSqlErrorCode;

use super::wait;
use crate::errors::UserError;
use crate::pg::libpq::parse_conninfo;

/// Most bytes of pg_dump's complaints that are passed on.
const COMPLAINT_BYTES: usize = 2_000;

/// Whether a database holds nothing that a schema could get in the way of: no relation, function, type or schema of anybody's. What
/// belongs to an extension, or comes with another object (row types, arrays), does not count.
pub const IS_BARE: &str = "SELECT NOT EXISTS (SELECT FROM ( \
     SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS catalog, oid, relnamespace AS schema \
       FROM pg_catalog.pg_class WHERE relkind NOT IN ('i', 'I') \
     UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid, pronamespace FROM pg_catalog.pg_proc \
     UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, oid, typnamespace FROM pg_catalog.pg_type \
     UNION ALL SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, oid, oid FROM pg_catalog.pg_namespace) AS o \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = o.schema \
     WHERE o.oid >= 16384 AND n.nspname NOT IN ('information_schema', 'synod') AND n.nspname NOT LIKE 'pg\\_%' \
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d \
                       WHERE d.classid = o.catalog AND d.objid = o.oid AND d.deptype IN ('e', 'i')))";

/// The SQL that makes what is missing. `tables`: only these, quoted and qualified; `None`: everything. Raises on cancel.
pub fn dump(dsn: &str, snapshot: &str, tables: Option<&[String]>, scratch: &Path) -> Result<String, UserError> {
    let (target, complaints) = (scratch.join("schema.sql"), scratch.join("schema.err"));
    let failed = |error: &dyn std::fmt::Display| refused(error.to_string());
    let mut command = command(dsn, snapshot, tables).map_err(|error| failed(&error))?;
    let files = File::create(&target).and_then(|out| Ok((out, File::create(&complaints)?)));
    let (out, complaint) = files.map_err(|error| failed(&error))?;
    let child = command.stdout(out).stderr(complaint).spawn();
    let mut running = Running(child.map_err(|error| failed(&format!("{}: {error}", program().display())))?);
    let status = loop {
        match running.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => wait::moment(),
            Err(error) => return Err(failed(&error)),
        }
    };
    if !status.success() {
        return Err(refused(beginning(&complaints)));
    }
    let sql = fs::read_to_string(&target).map_err(|error| failed(&error))?;
    let _ = fs::remove_file(&target).and(fs::remove_file(&complaints));
    Ok(without_psql_commands(&sql))
}

fn command(dsn: &str, snapshot: &str, tables: Option<&[String]>) -> io::Result<Command> {
    let mut command = Command::new(program());
    let settings = parse_conninfo(dsn).map_err(|error| io::Error::other(error.message))?;
    let mut target = String::new();
    for (keyword, value) in &settings {
        // Not on the command line, which every user of the machine can read.
        if keyword == "password" {
            command.env("PGPASSWORD", value);
        } else {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            target.push_str(&format!("{keyword}='{value}' "));
        }
    }
    target.push_str("application_name='synod copy'");
    command
        .arg("--schema-only")
        .arg("--exclude-schema=synod")
        .arg("--no-publications")
        .arg("--no-subscriptions")
        .arg(format!("--snapshot={snapshot}"))
        .arg(format!("--dbname={target}"))
        .env(
            "PGOPTIONS",
            "-c synod.read_consistency=local -c statement_timeout=0 -c lock_timeout=0",
        )
        .stdin(Stdio::null());
    for table in tables.into_iter().flatten() {
        command.arg(format!("--table={table}"));
    }
    Ok(command)
}

/// Beside the server's own program, or on the path.
fn program() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .map(|server| server.with_file_name("pg_dump"))
        .filter(|path| path.exists());
    beside.unwrap_or_else(|| "pg_dump".into())
}

/// Ended with whoever waits for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Lines for psql (`\restrict`) mean nothing to a server. None can be part of a definition: pg_dump puts what it dumps into
/// quotes or dollar quotes whose lines are passed on as they are.
fn without_psql_commands(sql: &str) -> String {
    let psql = |line: &&str| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ");
    sql.split_inclusive('\n').filter(psql).collect()
}

fn beginning(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(COMPLAINT_BYTES as u64).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) => error.to_string(),
    }
}

fn refused(said: String) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "could not get the definitions of the tables that are missing in this database",
        format!("pg_dump says: {said}."),
        "Create the tables as they are on the other nodes, empty, then join again.",
    )
}

#[cfg(test)]
mod tests {
    use super::without_psql_commands;

    #[test]
    fn commands_for_psql_are_left_out() {
        let sql = "\\restrict abc\nCREATE TABLE t (a text DEFAULT '\n\\x\n');\n\\unrestrict abc\n";
        assert_eq!(
            without_psql_commands(sql),
            "CREATE TABLE t (a text DEFAULT '\n\\x\n');\n"
        );
    }
}
