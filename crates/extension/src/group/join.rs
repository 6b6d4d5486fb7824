//! `synod.join_group`: copy what is replicated at one CSN, then follow the log from there.
//!
//! Order, and why: the group admits a learner first, so that it keeps the log from here on; then the state of certification
//! is taken, at a position `p`; then the tables are copied as of a CSN `c >= p`'s last commit. So the verdicts of all records
//! after `c` can be worked out here from the log after `p`, and none before `c` is needed. The copy and the applied CSN are
//! committed together; then the directory is moved into its place; then the node follows, and when it has caught up it gets
//! its vote.
//!
//! A node that cannot go on from its own log takes the same way again in its place (`rejoin`): the group replaces it by a
//! learner, its rows are replaced in the transaction that copies, and its directory by the new one.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgrx::PgSqlErrorCode;
use synod_log::{LogId, LogOptions, Membership, NodeId, PaxosLog};
use synod_rules::Certifier;

use super::facts::{Facts, RELEASE};
use super::schema;
use super::site::{Nowhere, Site, file_error};
use super::steps::{self, Steps};
use super::{check_name, check_not_member, check_session, own_session, session, wait};
use crate::errors::UserError;
use crate::handshake;
use crate::identity::{Identity, MemberInfo};
use crate::pg::client::{Client, Row, explain};
use crate::pg::progress::{self, Phase};
use crate::pg::{failpoint, server, shmem, threads};
use crate::text::{from_hex, hex, uuid};

/// In messages.
const VIA: &str = "the node given as via";
/// How long a node that has applied everything may wait for its vote.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(120);

/// What one attempt works with.
struct Join<'a> {
    via_dsn: &'a str,
    name: &'a str,
    dsn: &'a str,
    own: Client,
    via: Client,
    group: super::facts::Membership,
    /// The group's secret, if this database is a node already, and has been set aside.
    replace: Option<[u8; 32]>,
    /// Tables of the group that are not here, quoted and qualified.
    missing: Vec<String>,
}

/// What the group gave to its new learner.
struct Admission {
    node: NodeId,
    secret: [u8; 32],
    membership: Membership,
}

/// Make this database node `name` of the group that the node at `via` belongs to.
pub fn join(via_dsn: &str, name: &str, dsn: &str) -> Result<(), UserError> {
    check_name("node", name)?;
    check_session("synod.join_group")?;
    check_not_member()?;
    super::tables::check_no_traces()?;
    let (own, own_facts) = own_session(dsn)?;
    own_facts.check_room()?;
    let (mut via, facts) = session(via_dsn, VIA)?;
    let group = checked_group(&facts, &own_facts)?;
    check_new(&mut via, name)?;
    start(Join {
        via_dsn,
        name,
        dsn,
        own,
        via,
        group,
        replace: None,
        missing: Vec::new(),
    })
}

/// Make this database, which is node `name` and has been set aside, that node again from a fresh copy.
pub fn again(via_dsn: &str, identity: &Identity) -> Result<(), UserError> {
    let (name, dsn) = (&*identity.name, &*identity.dsn);
    let (own, own_facts) = own_session(dsn)?;
    let (via, facts) = session(via_dsn, VIA)?;
    let group = checked_group(&facts, &own_facts)?;
    start(Join {
        via_dsn,
        name,
        dsn,
        own,
        via,
        group,
        replace: Some(identity.secret),
        missing: Vec::new(),
    })
}

fn start(mut join: Join<'_>) -> Result<(), UserError> {
    let _shown = progress::begin();
    progress::let_help(join.own.backend_pid());
    // Early, for the user's sake; again when they are copied.
    // What is wrong with them is told before anything is done.
    join.missing_tables()?;
    steps::undone_on_failure(move |steps| {
        // Dropped before anything is undone: its sessions hold locks.
        let mut join = join;
        join.run(steps)
    })
}

fn checked_group(facts: &Facts, own: &Facts) -> Result<super::facts::Membership, UserError> {
    if facts.system_identifier == own.system_identifier && facts.database == own.database {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a node cannot join a group through itself",
            "The dsn given as via leads to this very database.",
            "Give the dsn of a member of the group as via.",
        ));
    }
    facts.check_usable(VIA)?;
    facts.check_same_encoding(own, VIA)?;
    facts.member.clone().ok_or_else(|| {
        UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{VIA} is not a member of a group"),
            "The extension is there, but neither synod.create_group nor synod.join_group was called.",
            "Give the dsn of a member as via, or make a group there with synod.create_group.",
        )
    })
}

fn check_new(via: &mut Client, name: &str) -> Result<(), UserError> {
    let (system_identifier, database) = (server::system_identifier().to_string(), server::database().to_string());
    via.query(
        "SELECT synod._check_new($1, $2, $3)",
        &[Some(name), Some(&system_identifier), Some(&database)],
    )
    .map_err(|error| explain(error, VIA))?;
    Ok(())
}

/// Tables that are audited: one that is made anew is another one, and goes on being audited.
const AUDITED: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) \
       FROM synod.audited AS a JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.relation \
       JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace WHERE a.until IS NULL";
/// Unless it is the same one, or is not there any more.
const AUDIT_AGAIN: &str = "SELECT synod.audit_table(t.relation) FROM (SELECT pg_catalog.to_regclass($1) AS relation) AS t \
      WHERE t.relation IS NOT NULL AND NOT EXISTS (SELECT FROM synod.audited AS a \
            WHERE a.relation OPERATOR(pg_catalog.=) t.relation AND a.until IS NULL)";

impl Join<'_> {
    fn run(&mut self, steps: &RefCell<Steps>) -> Result<(), UserError> {
        progress::enter(Phase::Admission);
        let site = Site::prepare()?;
        let log =
            threads::with_signals_blocked(|| PaxosLog::<Nowhere>::reserve(&site.log(), &LogOptions::new(NodeId(0))))
                .map_err(|error| file_error(&site.log(), &error))?;
        let admission = self.admit(log, steps)?;
        failpoint::hit("join-admitted");
        let certifier = self.certifier()?;
        self.copy(&site, steps)?;
        failpoint::hit("join-copied");
        self.build(&site, log, &admission, &certifier)?;
        failpoint::hit("join-built");
        self.own
            .execute("COMMIT; SELECT synod._release_origin()")
            .map_err(|error| explain(error, "this database"))?;
        failpoint::hit("join-committed");
        self.open(site, steps)?;
        failpoint::hit("join-opened");
        self.follow(admission.node)
    }

    /// The database is the new node from here on.
    fn open(&self, site: Site, steps: &RefCell<Steps>) -> Result<(), UserError> {
        if self.replace.is_none() {
            steps.borrow_mut().opened = true;
            return site.open_up();
        }
        // There is no way back to the old rows: what fails from here on is tried again.
        *steps.borrow_mut() = Steps::default();
        site.replace()?;
        if let Some((_, node)) = shmem::node_of(server::database()) {
            node.clear();
        }
        crate::pg::launcher::wake();
        Ok(())
    }

    fn admit(&mut self, log: LogId, steps: &RefCell<Steps>) -> Result<Admission, UserError> {
        let info = MemberInfo {
            name: self.name.into(),
            dsn: self.dsn.into(),
            system_identifier: server::system_identifier(),
            database: server::database(),
            server_version: server::version_number(),
        };
        let info = format!("\\x{}", hex(&info.encode()));
        let proof = format!("\\x{}", hex(&self.proof(log)?));
        steps.borrow_mut().admitted = Some((self.via_dsn.into(), uuid(&log.0), proof.clone()));
        let rows = self
            .via
            .query(
                "SELECT node_id, secret, membership FROM synod._admit($1, $2, $3, $4)",
                &[
                    Some(&uuid(&log.0)),
                    Some(&info),
                    Some(flag(self.replace.is_some())),
                    Some(&proof),
                ],
            )
            .map_err(|error| explain(error, VIA))?;
        rows.first()
            .and_then(|row| admission(row, self.replace))
            .ok_or_else(not_understood)
    }

    /// A node that comes back shows that it has the group's secret; a new one is admitted by an administrator's session.
    fn proof(&self, log: LogId) -> Result<Vec<u8>, UserError> {
        let Some(secret) = &self.replace else {
            return Ok(Vec::new());
        };
        let group = group_bytes(&self.group.group_id).ok_or_else(not_understood)?;
        let admission = handshake::Admission {
            secret,
            group: &group,
            log: &log.0,
        };
        Ok(admission.proof().to_vec())
    }

    fn certifier(&mut self) -> Result<Certifier, UserError> {
        let rows = self
            .via
            .query("SELECT synod._certification_checkpoint()", &[])
            .map_err(|error| explain(error, VIA))?;
        let bytes = rows.first().and_then(|row| bytea(row, 0)).ok_or_else(not_understood)?;
        Certifier::decode(&bytes).map_err(|_| not_understood())
    }

    fn missing_tables(&mut self) -> Result<Vec<String>, UserError> {
        let parameters = [
            Some(self.via_dsn),
            Some(&*self.group.node_name),
            Some(flag(self.replace.is_some())),
        ];
        // A transaction of its own, which keeps no locks.
        let rows = self
            .own
            .query("SELECT synod._check_tables($1, $2, $3)", &parameters)
            .map_err(|error| explain(error, "this database"))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| row.into_iter().next().flatten())
            .collect())
    }

    /// Make the tables that are missing, in the transaction that is open in `own`.
    fn create_missing(&mut self, snapshot: &str, site: &Site) -> Result<(), UserError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        progress::enter(Phase::Schema);
        let told = |error| explain(error, "this database");
        let bare = self.own.query(schema::IS_BARE, &[]).map_err(told)?;
        let bare = self.replace.is_none() && bare.first().and_then(|row| row.first()?.as_deref()) == Some("t");
        let tables = (!bare).then_some(&*self.missing);
        let sql = schema::dump(self.via_dsn, snapshot, tables, site.path())?;
        // The dump sets what it needs, the search path too, until the end of the transaction.
        self.own.execute("SET LOCAL synod.ddl = local").map_err(told)?;
        let mut audited = Vec::new();
        if self.replace.is_some() {
            audited = self.own.query(AUDITED, &[]).map_err(told)?;
            self.own.query("SELECT synod._release_tables()", &[]).map_err(told)?;
            let drop = format!("DROP TABLE IF EXISTS {}", self.missing.join(", "));
            self.own.execute(&drop).map_err(told)?;
        }
        self.own.execute(&sql).map_err(told)?;
        self.own
            .execute("SET search_path = pg_catalog, pg_temp; SET row_security = off; SET client_min_messages = notice")
            .map_err(told)?;
        for table in audited {
            let name = table.first().and_then(Option::as_deref);
            self.own.query(AUDIT_AGAIN, &[name]).map_err(told)?;
        }
        Ok(())
    }

    /// Leaves this database's part of it in a transaction that is open in `own`.
    fn copy(&mut self, site: &Site, steps: &RefCell<Steps>) -> Result<(), UserError> {
        let exported = self
            .via
            .execute("BEGIN")
            .and_then(|()| {
                self.via
                    .query("SELECT snapshot, csn FROM synod._export_snapshot()", &[])
            })
            .map_err(|error| explain(error, VIA))?;
        let text = |index: usize| exported.first()?.get(index)?.clone();
        let (snapshot, csn) = text(0).zip(text(1)).ok_or_else(not_understood)?;
        // That transaction has the group's DDL lock: what is looked at now is what the snapshot shows.
        self.missing = self.missing_tables()?;
        if self.replace.is_none() {
            steps.borrow_mut().prepared = Some((self.dsn.into(), true));
        }
        self.own
            .execute("BEGIN")
            .map_err(|error| explain(error, "this database"))?;
        self.create_missing(&snapshot, site)?;
        let parameters = [
            Some(self.via_dsn),
            Some(&*snapshot),
            Some(&*self.group.node_name),
            Some(&*csn),
            Some(flag(self.replace.is_some())),
        ];
        self.own
            .query("SELECT synod._copy_tables($1, $2, $3, $4, $5)", &parameters)
            .map_err(|error| explain(error, "this database"))?;
        self.via.execute("COMMIT").map_err(|error| explain(error, VIA))
    }

    /// The node's directory, all but in its place.
    fn build(&self, site: &Site, log: LogId, admission: &Admission, certifier: &Certifier) -> Result<(), UserError> {
        let identity = Identity {
            group: group_bytes(&self.group.group_id).ok_or_else(not_understood)?,
            group_name: self.group.group_name.clone(),
            node: admission.node,
            name: self.name.into(),
            dsn: self.dsn.into(),
            log,
            system_identifier: server::system_identifier(),
            database: server::database(),
            secret: admission.secret,
        };
        identity.save(site.path())?;
        crate::engine::store_checkpoint(site.path(), &certifier.encode())
            .map_err(|error| file_error(site.path(), &error))?;
        let position = crate::engine::first_needed(certifier) - 1;
        let options = LogOptions {
            deliver_from: position + 1,
            ..LogOptions::new(admission.node)
        };
        let made = threads::with_signals_blocked(|| {
            PaxosLog::create_learner(&site.log(), options, position, admission.membership.clone(), Nowhere)
        });
        made.map(drop).map_err(|error| file_error(&site.log(), &error))
    }

    /// Catch up, and get the vote.
    fn follow(&mut self, id: NodeId) -> Result<(), UserError> {
        let node = wait::for_log()?;
        let rows = self
            .via
            .query("SELECT synod.applied_csn()", &[])
            .map_err(|error| explain(error, VIA))?;
        let there = rows
            .first()
            .and_then(|row| row.first()?.as_ref()?.parse().ok())
            .ok_or_else(not_understood)?;
        if let Some(shown) = progress::mine() {
            shown.csn_target.store(there, Ordering::Relaxed);
        }
        progress::enter(Phase::CatchUp);
        wait::for_applied(node, there)?;
        progress::enter(Phase::Vote);
        let id = id.0.to_string();
        let deadline = Instant::now() + PROMOTION_TIMEOUT;
        loop {
            let rows = self
                .via
                .query("SELECT synod._promote($1)", &[Some(&id)])
                .map_err(|error| explain(error, VIA))?;
            match rows.first().and_then(|row| row.first().cloned().flatten()) {
                None => return Ok(()),
                Some(reason) if Instant::now() > deadline => return Err(super::admit::unchanged(&reason)),
                Some(_) => wait::moment(),
            }
        }
    }
}

/// `known`: who has the secret is not told it.
fn admission(row: &Row, known: Option<[u8; 32]>) -> Option<Admission> {
    let node = NodeId(row.first()?.as_ref()?.parse().ok()?);
    let secret = match known {
        Some(secret) => secret,
        None => bytea(row, 1)?.try_into().ok()?,
    };
    let membership = synod_log::get_membership(&mut Bytes::from(bytea(row, 2)?)).ok()?;
    Some(Admission {
        node,
        secret,
        membership,
    })
}

/// A boolean as SQL reads it.
fn flag(set: bool) -> &'static str {
    if set { "true" } else { "false" }
}

/// A bytea column in hex format.
fn bytea(row: &Row, index: usize) -> Option<Vec<u8>> {
    from_hex(row.get(index)?.as_ref()?.strip_prefix("\\x")?)
}

fn group_bytes(text: &str) -> Option<[u8; 16]> {
    from_hex(&text.replace('-', ""))?.try_into().ok()
}

fn not_understood() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
        format!("could not understand the answer of {VIA}"),
        format!("This node runs synod {RELEASE}."),
        "Run the same version of synod on every node.",
    )
}
