//! `synod.alter_node`: a node has moved to another address.
//!
//! The membership in the log says how a node is reached; every member dials the new address as soon as it has the record.
//! The caller's word is not enough: the address must lead to that very node, so that a slip of the pen does not cut a
//! member off.

use pgrx::PgSqlErrorCode;
use synod_log::{Membership, MembershipChange};

use super::{admit, check_session, session, wait};
use crate::errors::UserError;
use crate::membership;
use crate::text::uuid;

/// Let the others reach node `name` through `dsn` from now on.
pub fn alter(name: &str, dsn: &str) -> Result<(), UserError> {
    check_session("synod.alter_node")?;
    let (_, identity) = admit::member()?;
    // A node that has only just started knows no members yet.
    let node = wait::for_majority()?;
    let members = membership::read(node);
    let Some(member) = membership::find(&members, |member| admit::info(member).name == name) else {
        return Err(super::no_such_node(name, &identity.group_name));
    };
    let (_, facts) = session(dsn, "the node behind the new dsn")?;
    let expected = (uuid(&identity.group), member.id.0);
    let found = facts
        .member
        .map(|found| (found.group_id, found.node_id, found.node_name));
    if found.as_ref().map(|(group, id, _)| (group.clone(), *id)) != Some(expected) {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("the dsn does not lead to node \"{name}\""),
            match found {
                Some((group, _, other)) if group == uuid(&identity.group) => format!("It leads to node \"{other}\"."),
                Some(_) => "It leads to a node of another group.".into(),
                None => "It leads to a database that is no member of a group.".into(),
            },
            "Give the dsn by which the other nodes reach that node.",
        ));
    }
    let mut info = admit::info(member);
    info.dsn = dsn.into();
    let encoded = info.encode();
    let described = |now: &Membership| {
        let same = |member: &synod_log::Member| admit::info(member) == info;
        now.members.iter().any(same)
    };
    let change = MembershipChange::Describe(member.id, encoded.into());
    admit::change(node, &change, super::leave::patience(), described).map_err(|reason| admit::unchanged(&reason))?;
    Ok(())
}
