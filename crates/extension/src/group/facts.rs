//! What a node must know about a database before it trusts it: which one it is, which versions, which group.

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use crate::errors::UserError;
use crate::handshake::PROTOCOL_VERSION;
use crate::identity::Identity;
use crate::pg::client::{Client, Row, explain};
use crate::pg::{server, shmem};
use crate::text::uuid;

/// This release, as `CREATE EXTENSION` names it.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Facts about a database with the extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `extversion` in `pg_extension`.
    pub extension: String,
    /// Release of the library that is loaded.
    pub library: String,
    /// Version of the link protocol.
    pub protocol: i32,
    /// Which server.
    pub system_identifier: u64,
    /// Which database of it.
    pub database: u32,
    /// PostgreSQL's version number.
    pub server_version: u32,
    /// The database's encoding.
    pub encoding: String,
    /// The library was loaded at server start.
    pub preloaded: bool,
    /// Replication origins that can still be made.
    pub free_origins: i64,
    /// The group and the node that it is.
    pub member: Option<Membership>,
}

/// A database's place in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group's id, as text.
    pub group_id: String,
    /// The group's name.
    pub group_name: String,
    /// Node id.
    pub node_id: u32,
    /// Node name.
    pub node_name: String,
}

const QUESTION: &str = "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'synod'), \
     library, protocol, system_identifier, database, server_version, encoding, preloaded, free_origins, \
     group_id, group_name, node_id, node_name FROM synod._node_facts()";

impl Facts {
    /// Ask a database for them.
    pub fn ask(client: &mut Client, whom: &str) -> Result<Self, UserError> {
        let rows = client.query(QUESTION, &[]).map_err(|error| explain(error, whom))?;
        rows.first().and_then(Self::parse).ok_or_else(|| {
            UserError::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("could not understand {whom}"),
                "It runs another version of synod.",
                "Run the same version of synod on every node.",
            )
        })
    }

    fn parse(row: &Row) -> Option<Self> {
        let text = |index: usize| row.get(index)?.clone();
        let member = match (text(9), text(10), text(11), text(12)) {
            (Some(group_id), Some(group_name), Some(node_id), Some(node_name)) => Some(Membership {
                group_id,
                group_name,
                node_id: node_id.parse().ok()?,
                node_name,
            }),
            _ => None,
        };
        Some(Self {
            extension: text(0)?,
            library: text(1)?,
            protocol: text(2)?.parse().ok()?,
            system_identifier: text(3)?.parse().ok()?,
            database: text(4)?.parse().ok()?,
            server_version: text(5)?.parse().ok()?,
            encoding: text(6)?,
            preloaded: text(7)? == "t",
            free_origins: text(8)?.parse().ok()?,
            member,
        })
    }

    /// Refuse what cannot be a member of any group with us.
    pub fn check_usable(&self, whom: &str) -> Result<(), UserError> {
        if self.extension != RELEASE || self.library != RELEASE || self.protocol != PROTOCOL_VERSION {
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("{whom} runs another version of synod"),
                format!(
                    "There the extension is {}, the library {} and the protocol {}; here the library is {RELEASE} and the \
                     protocol {PROTOCOL_VERSION}.",
                    self.extension, self.library, self.protocol
                ),
                "Run the same version of synod on every node: install it, restart, ALTER EXTENSION synod UPDATE.",
            ));
        }
        if !self.preloaded {
            return Err(UserError::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("synod was not loaded when the server of {whom} started"),
                "Its shared memory and workers do not exist there.",
                "Add synod to shared_preload_libraries there and restart that server.",
            ));
        }
        Ok(())
    }

    /// Refuse a group whose data this database cannot hold.
    pub fn check_same_encoding(&self, own: &Self, whom: &str) -> Result<(), UserError> {
        if self.encoding == own.encoding {
            return Ok(());
        }
        Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{whom} has another encoding"),
            format!("It is {} there, {} here.", self.encoding, own.encoding),
            "The databases of a group have one encoding: create this one anew with it.",
        ))
    }

    /// Refuse when this server has no room for another replication origin, which carries the applied CSN.
    pub fn check_room(&self) -> Result<(), UserError> {
        if self.free_origins > 0 {
            return Ok(());
        }
        Err(UserError::new(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "no replication origin is free on this server",
            format!("{} limits them, and all are in use.", server::origin_setting()),
            format!("Raise {} and restart the server.", server::origin_setting()),
        ))
    }
}

/// `synod._node_facts()`
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the row type of an SQL function")]
fn node_facts() -> TableIterator<
    'static,
    (
        name!(library, String),
        name!(protocol, i32),
        name!(system_identifier, String),
        name!(database, i64),
        name!(server_version, i32),
        name!(encoding, String),
        name!(preloaded, bool),
        name!(free_origins, i64),
        name!(group_id, Option<String>),
        name!(group_name, Option<String>),
        name!(node_id, Option<i32>),
        name!(node_name, Option<String>),
    ),
> {
    let identity = Identity::of_this_database().unwrap_or_else(|error| error.raise());
    let used = Spi::get_one::<i64>("SELECT pg_catalog.count(*) FROM pg_catalog.pg_show_replication_origin_status()");
    let used = used.ok().flatten().unwrap_or(0);
    TableIterator::once((
        RELEASE.to_owned(),
        PROTOCOL_VERSION,
        server::system_identifier().to_string(),
        i64::from(server::database()),
        server::version_number() as i32,
        server::encoding(),
        shmem::shared().is_some(),
        server::max_origins() - used,
        identity.as_ref().map(|identity| uuid(&identity.group)),
        identity.as_ref().map(|identity| identity.group_name.clone()),
        identity.as_ref().map(|identity| identity.node.0 as i32),
        identity.map(|identity| identity.name),
    ))
}
