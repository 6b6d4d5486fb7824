//! `synod.create_group`: a group of one.

use std::sync::atomic::Ordering;

use synod_log::{LogOptions, NodeId, PaxosLog};

use super::site::{Nowhere, Site, file_error};
use super::{check_name, check_not_member, check_session, own_session, steps, wait};
use crate::errors::UserError;
use crate::identity::{Identity, MemberInfo};
use crate::pg::client::explain;
use crate::pg::progress::{self, Phase};
use crate::pg::{random, server, threads};

/// The first node of every group.
const FIRST: NodeId = NodeId(1);

/// Make a group named `group` whose only node this database is.
pub fn create(group: &str, node: &str, dsn: &str) -> Result<(), UserError> {
    check_name("group", group)?;
    check_name("node", node)?;
    check_session("synod.create_group")?;
    check_not_member()?;
    let (own, facts) = own_session(dsn)?;
    facts.check_room()?;
    let _under_way = progress::begin();
    progress::enter(Phase::Creation);
    progress::let_help(own.backend_pid());
    steps::undone_on_failure(move |steps| {
        let mut own = own;
        let site = Site::prepare()?;
        let info = MemberInfo {
            name: node.into(),
            dsn: dsn.into(),
            system_identifier: server::system_identifier(),
            database: server::database(),
            server_version: server::version_number(),
        };
        let made = threads::with_signals_blocked(|| {
            PaxosLog::create(&site.log(), LogOptions::new(FIRST), info.encode().into(), Nowhere)
        });
        let log = made.map_err(|error| file_error(&site.log(), &error))?.log_id();
        let identity = Identity {
            group: random::bytes()?,
            group_name: group.into(),
            node: FIRST,
            name: node.into(),
            dsn: dsn.into(),
            log,
            system_identifier: info.system_identifier,
            database: info.database,
            secret: random::bytes()?,
        };
        identity.save(site.path())?;
        steps.borrow_mut().prepared = Some((dsn.into(), false));
        own.execute("SELECT synod._set_origin(0)")
            .map_err(|error| explain(error, "this database"))?;
        steps.borrow_mut().opened = true;
        site.open_up()?;
        let node = wait::for_log()?;
        debug_assert_eq!(
            node.node_id.load(Ordering::Relaxed),
            FIRST.0,
            "a new group's node has another id"
        );
        own.execute("SELECT synod._replicate_own_tables()")
            .map_err(|error| explain(error, "this database"))
    })
}
