//! The called end of a link: `CALL synod.link(...)` turns its session into a stream of a peer's messages.
//!
//! Life: check the arguments; commit, so that no snapshot is held for as long as the link lasts; CopyBoth; handshake
//! (`crate::handshake`); take the peer's ring (`pg/ring.rs`), from an older link of the same peer if need be; then move
//! CopyData payloads into the ring until the peer hangs up, the log worker ends or a newer link takes over. The session
//! ends with the link. A crash in here is an ordinary backend's crash; its ring is claimed anew afterwards.
//! Mirrors `WalSndLoop` and `ProcessRepliesIfAny` of walsender.c.

mod stream;

use std::ffi::{c_char, c_int};
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_log::NodeId;
use synod_log::frames::MAX_FRAME_BYTES;

use super::ring::{Producer, Refusal};
use crate::errors::UserError;
use crate::handshake::{Handshake, NONCE_BYTES, PROOF_BYTES, PROTOCOL_VERSION, REMOVED, Role, WELCOME};
use crate::identity::Identity;
use stream::Stream;

/// How long the peer may take for its proof.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an older link of the same peer may take to leave by itself: it does not while it waits for the rest of a message.
const REPLACE_PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take after it was terminated.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest CopyData of an established link: one longest frame, or many short ones.
const MAX_COPY_BYTES: c_int = MAX_FRAME_BYTES as c_int + 4;
/// `STATEMENT_TIMEOUT` of utils/timeout.h; the same number in 13 to 18.
const STATEMENT_TIMEOUT: c_int = 3;

// Exported by the server, not bound by pgrx.
unsafe extern "C-unwind" {
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

fn refuse(code: PgSqlErrorCode, message: &str, detail: String, hint: &str) -> UserError {
    UserError::new(code, message, detail, hint)
}

/// What the caller says about itself.
struct Caller {
    protocol: i32,
    group: [u8; 16],
    from: u32,
    to: u32,
    nonce: Vec<u8>,
}

#[pgrx::pg_extern(sql = false)]
fn link(
    protocol_version: Option<i32>,
    group_id: Option<pgrx::Uuid>,
    from_node: Option<i32>,
    to_node: Option<i32>,
    nonce: Option<&[u8]>,
    fcinfo: pg_sys::FunctionCallInfo,
) {
    let given = || {
        Some(Caller {
            protocol: protocol_version?,
            group: *group_id?.as_bytes(),
            from: u32::try_from(from_node?).unwrap_or(0),
            to: u32::try_from(to_node?).unwrap_or(0),
            nonce: nonce?.to_vec(),
        })
    };
    // A procedure cannot be STRICT.
    let caller = given().unwrap_or_else(|| {
        refuse(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "synod.link takes no null",
            String::new(),
            "It is called by the nodes of a group, not by users.",
        )
        .raise()
    });
    // SAFETY: fcinfo is this call's.
    if unsafe { called_in_transaction(fcinfo) } {
        refuse(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "synod.link cannot run inside a transaction block",
            String::new(),
            "It is called by the nodes of a group, not by users.",
        )
        .raise();
    }
    super::wait_event::set_default(super::wait_event::WaitEvent::Link);
    let identity = checked(&caller).unwrap_or_else(|error| {
        keep_quiet();
        error.raise()
    });
    if let Err(error) = converse(&caller, &identity) {
        error.raise_fatal();
    }
    // SAFETY: ends this backend as walsender does when its peer hangs up; nothing is held.
    unsafe { pg_sys::proc_exit(0) }
}

/// True in a transaction block, a function, or anything else that cannot commit.
///
/// # Safety
/// `fcinfo` belongs to the current call.
unsafe fn called_in_transaction(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: for CALL the context is a CallContext (see ExecuteCallStmt), else NULL or of another type.
    unsafe {
        let context = (*fcinfo).context;
        context.is_null()
            || (*context).type_ != pg_sys::NodeTag::T_CallContext
            || (*context.cast::<pg_sys::CallContext>()).atomic
    }
}

fn checked(caller: &Caller) -> Result<Identity, UserError> {
    if caller.protocol != PROTOCOL_VERSION {
        return Err(refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "the nodes speak different versions of the link protocol",
            format!(
                "This node speaks version {PROTOCOL_VERSION}, the calling one version {}.",
                caller.protocol
            ),
            "Run the same version of synod on every node.",
        ));
    }
    let identity = Identity::of_this_database()?.ok_or_else(crate::errors::not_a_member)?;
    if identity.group != caller.group {
        return Err(refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "this database is a member of another group",
            format!("It is node \"{}\" of group \"{}\".", identity.name, identity.group_name),
            "Correct the dsn of the node that was meant.",
        ));
    }
    if identity.node.0 != caller.to || caller.from == 0 || caller.from == caller.to {
        return Err(refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "this database is another node than the one called",
            format!(
                "It is node {} (\"{}\"); node {} was called.",
                identity.node.0, identity.name, caller.to
            ),
            "Correct the dsn of the node that was meant.",
        ));
    }
    if caller.nonce.len() != NONCE_BYTES {
        return Err(refuse(
            PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
            "invalid nonce",
            format!("It has {} bytes instead of {NONCE_BYTES}.", caller.nonce.len()),
            "",
        ));
    }
    Ok(identity)
}

fn refused(refusal: Refusal, caller: &Caller, identity: &Identity) -> UserError {
    let from = caller.from;
    match refusal {
        Refusal::NoConsumer => refuse(
            PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
            "the log worker of this node is not running",
            format!(
                "Node {} (\"{}\") cannot take messages at the moment.",
                identity.node.0, identity.name
            ),
            "It is started by the launcher; see the server log if it does not come up.",
        ),
        Refusal::Removed => refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            REMOVED,
            format!("Node {from} has left the group or was removed from it."),
            "Call synod.leave_group() there, then join anew.",
        ),
        Refusal::TooManyPeers => refuse(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "too many peers",
            format!("A node takes links of at most {} peers.", super::ring::MAX_PEERS),
            "",
        ),
    }
}

/// A node that is refused calls again every other second; it tells its own log why, once. This server's log would fill.
fn keep_quiet() {
    // SAFETY: changes a setting of this session, which ends with its only statement.
    unsafe {
        pg_sys::SetConfigOption(
            c"log_min_messages".as_ptr(),
            c"panic".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

fn converse(caller: &Caller, identity: &Identity) -> Result<(), UserError> {
    let called_nonce = super::random::bytes::<NONCE_BYTES>()?;
    let handshake = Handshake {
        secret: &identity.secret,
        group: &identity.group,
        from: caller.from,
        to: caller.to,
        dialling_nonce: &caller.nonce,
        called_nonce: &called_nonce,
    };
    begin_stream(caller.from);
    let mut stream = Stream::new();
    stream.send(&[&called_nonce[..], &handshake.proof(Role::Called)].concat());
    let Some(proof) = stream.receive_short::<PROOF_BYTES>(Instant::now() + HANDSHAKE_TIMEOUT)? else {
        return Ok(());
    };
    if !handshake.verify(Role::Dialling, &proof) {
        return Err(refuse(
            PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            "the calling node does not have the group's secret",
            format!("The proof of node {} is wrong.", caller.from),
            "",
        ));
    }
    // Only now: an impostor must not push out the link of the node whose name he bears.
    let producer =
        Producer::find(identity.database, NodeId(caller.from)).map_err(|refusal| refused(refusal, caller, identity))?;
    take_ring(&producer)?;
    stream.send(WELCOME);
    while producer.holds() {
        let Some(bytes) = stream.receive(MAX_COPY_BYTES, &|| producer.holds())? else {
            return Ok(());
        };
        deliver(&producer, bytes);
    }
    Err(refuse(
        PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN,
        "the link is over",
        "A newer link of the same node took its place, the log worker ended, or the node was removed.".into(),
        "",
    ))
}

/// Leave the transaction's world: no timeout, no snapshot, CopyBoth.
fn begin_stream(from: u32) {
    let activity = std::ffi::CString::new(format!("synod link from node {from}")).unwrap_or_default();
    // SAFETY: in a backend, inside a procedure called non-atomically (checked); SPI nests properly and is ended with the
    // process. After SPI_commit no snapshot is registered, so MyProc->xmin stays invalid.
    unsafe {
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| disable_timeout(STATEMENT_TIMEOUT, false));
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        pg_sys::SetConfigOption(
            c"transaction_timeout".as_ptr(),
            c"0".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
        pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as c_int);
        pg_sys::SPI_commit();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity.as_ptr());
        let mut message = pg_sys::StringInfoData::default();
        pg_sys::pq_beginmessage(&mut message, b'W' as c_char);
        pg_sys::appendBinaryStringInfo(&mut message, [0u8; 3].as_ptr().cast(), 3);
        pg_sys::pq_endmessage(&mut message);
    }
}

fn take_ring(producer: &Producer) -> Result<(), UserError> {
    let begun = Instant::now();
    let mut terminated = 0;
    while !producer.claim() {
        let holder = producer.holder();
        if holder != terminated && begun.elapsed() > REPLACE_PATIENCE {
            super::server::terminate(holder);
            terminated = holder;
        }
        if begun.elapsed() > REPLACE_TIMEOUT {
            return Err(refuse(
                PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
                "an older link of the same node does not end",
                String::new(),
                "End its backend with pg_terminate_backend.",
            ));
        }
        super::latch::wait(Duration::from_millis(10));
        super::latch::reset();
        pgrx::check_for_interrupts!();
    }
    Ok(())
}

fn deliver(producer: &Producer, mut bytes: &[u8]) {
    while !bytes.is_empty() && producer.holds() {
        let count = producer.write(bytes);
        bytes = &bytes[count..];
        producer.wake_consumer();
        if count == 0 {
            super::latch::wait(Duration::from_secs(1));
            super::latch::reset();
            pgrx::check_for_interrupts!();
        }
    }
}
