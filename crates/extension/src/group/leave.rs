//! `synod.leave_group` and `synod.remove_node`.

use std::time::Duration;

use pgrx::PgSqlErrorCode;
use synod_log::{Membership, MembershipChange, NodeId};

use super::{admit, check_session, forget, site, wait};
use crate::errors::UserError;
use crate::identity::Identity;
use crate::membership;
use crate::pg::client::Client;
use crate::pg::server;
use crate::pg::shmem::{self, NodeState};
use crate::text::uuid;

/// How long a group without a majority is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stop being a member. The tables keep their rows. `force`: without telling the group.
pub fn leave(force: bool) -> Result<(), UserError> {
    check_session("synod.leave_group")?;
    let database = server::database();
    match Identity::of_this_database() {
        Ok(None) => {
            // A crash between the two halves below, or in the middle of joining.
            if forget::tables_and_origin(false) {
                pgrx::notice!("this database was not a member any more; what was left of it is forgotten");
                return Ok(());
            }
            return Err(crate::errors::not_a_member());
        }
        Ok(Some(identity)) if !force => tell_group(&identity)?,
        // A copy of a member must not speak for it, nor can a node that does not know who it is.
        Ok(Some(_)) | Err(_) => {
            pgrx::notice!(
                "the group is not told: call synod.remove_node for this node on another one, if it is listed there"
            );
        }
    }
    wait::for_workers_to_end(database)?;
    site::demolish(database)?;
    forget::tables_and_origin(false);
    wait::for_place_to_be_free(database);
    Ok(())
}

/// Have this node taken out of the members, or find that it is not one of them.
fn tell_group(identity: &Identity) -> Result<(), UserError> {
    let Some(node) = shmem::my_node() else {
        return Err(unheard(identity, "the log worker does not run"));
    };
    let members = membership::read(node);
    let others: Vec<_> = members
        .members
        .iter()
        .filter(|member| member.id != identity.node)
        .collect();
    if others.is_empty() && !members.members.is_empty() {
        return Ok(());
    }
    let gone = |now: &Membership| now.members.iter().all(|member| member.id != identity.node);
    let reason = if node.state() == NodeState::LogStopped {
        node.log_reason()
    } else {
        match admit::change(node, &MembershipChange::Remove(identity.node), patience(), gone) {
            Ok(_) => return Ok(()),
            Err(reason) => reason,
        }
    };
    if admit::tells_of_removal(&reason) {
        return Ok(());
    }
    let dsns: Vec<String> = others.into_iter().map(|member| admit::info(member).dsn).collect();
    if dsns.iter().any(|dsn| knows_no_more(dsn, identity)) {
        return Ok(());
    }
    Err(unheard(identity, &reason))
}

/// Whether another member says that this node is none.
fn knows_no_more(dsn: &str, identity: &Identity) -> bool {
    let node = identity.node.0.to_string();
    let asked = Client::connect(dsn, "synod membership").and_then(|mut client| {
        client.query(
            "SELECT synod._is_member($1, $2)",
            &[Some(&uuid(&identity.group)), Some(&node)],
        )
    });
    let answer = asked.ok().and_then(|rows| rows.first()?.first()?.clone());
    answer.as_deref() == Some("f")
}

fn unheard(identity: &Identity, reason: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "the group cannot be told that this node leaves",
        format!("The shared log says: {}.", reason.trim_end_matches('.')),
        format!(
            "Try again when a majority is connected; or call synod.leave_group(force => true) here and \
             synod.remove_node('{}') on another node.",
            identity.name
        ),
    )
}

/// Take another node out of the group.
pub fn remove(name: &str) -> Result<(), UserError> {
    check_session("synod.remove_node")?;
    let (_, identity) = admit::member()?;
    // A node that has only just started knows no members yet.
    let node = wait::for_majority()?;
    let members = membership::read(node);
    let Some(member) = membership::find(&members, |member| admit::info(member).name == name) else {
        return Err(super::no_such_node(name, &identity.group_name));
    };
    let id = member.id;
    if id == identity.node {
        return Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a node cannot remove itself",
            format!("\"{name}\" is this node."),
            "Call synod.leave_group() here, or synod.remove_node on another node.",
        ));
    }
    removed(node, id)
}

/// How long a change that a session asks for may take.
pub fn patience() -> Duration {
    PATIENCE.min(crate::pg::submit::commit_timeout())
}

fn removed(node: &shmem::NodeShared, id: NodeId) -> Result<(), UserError> {
    let gone = |now: &Membership| now.members.iter().all(|member| member.id != id);
    match admit::change(node, &MembershipChange::Remove(id), patience(), gone) {
        Ok(_) => Ok(()),
        Err(reason) if reason.contains("voter") => Err(UserError::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the node cannot be removed",
            format!("The shared log says: {reason}."),
            "Without it the group would have no majority. Bring the other nodes back first.",
        )),
        Err(reason) => Err(admit::unchanged(&reason)),
    }
}
