//! How two nodes know each other: on a link each proves that it has the group's secret, over a nonce of the other; a node that
//! asks to be admitted again, in its own place, proves it over the log that it has made for that.
//!
//! The dialling node sends its nonce with the call; the called one answers with its own nonce and its proof; the dialling
//! one checks that and sends its proof; the called one checks it and says welcome. The secret never travels, a recorded
//! handshake is worthless, and a proof made for one pair, direction or role does not fit another.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Version of the link: the arguments of `synod.link`, the handshake, and the framing. Nodes of another version are
/// refused.
pub const PROTOCOL_VERSION: i32 = 1;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
/// What the called node says when it takes the link.
pub const WELCOME: &[u8] = b"welcome";

/// The error by which a called node tells the dialling one that it was removed from the group. Said after both have proved
/// themselves, and final: ids are never used again.
pub const REMOVED: &str = "the calling node is not a member of the group";

/// Which end makes the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It dialled.
    Dialling,
    /// It was called.
    Called,
}

/// What one handshake is about.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    /// The group's secret.
    pub secret: &'a [u8; 32],
    /// The group.
    pub group: &'a [u8; 16],
    /// The dialling node.
    pub from: u32,
    /// The called node.
    pub to: u32,
    /// The dialling node's nonce.
    pub dialling_nonce: &'a [u8],
    /// The called node's nonce.
    pub called_nonce: &'a [u8],
}

/// What shows that a database that asks for this log to be admitted, or taken out again, has been a node of the group.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    /// The group's secret.
    pub secret: &'a [u8; 32],
    /// The group.
    pub group: &'a [u8; 16],
    /// The log directory that is to be a member; made at random for this one attempt.
    pub log: &'a [u8; 16],
}

impl Admission<'_> {
    fn mac(&self) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret).ok()?;
        mac.update(b"synod admission\0");
        mac.update(self.group);
        mac.update(self.log);
        Some(mac)
    }

    /// The proof.
    pub fn proof(&self) -> [u8; PROOF_BYTES] {
        self.mac()
            .map_or([0; PROOF_BYTES], |mac| mac.finalize().into_bytes().into())
    }

    /// Check a proof, in constant time.
    pub fn verify(&self, proof: &[u8]) -> bool {
        self.mac().is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }
}

impl Handshake<'_> {
    fn mac(&self, role: Role) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret).ok()?;
        mac.update(match role {
            Role::Dialling => b"synod link: dialling\0",
            Role::Called => b"synod link: called..\0",
        });
        mac.update(&PROTOCOL_VERSION.to_be_bytes());
        mac.update(self.group);
        mac.update(&self.from.to_be_bytes());
        mac.update(&self.to.to_be_bytes());
        for nonce in [self.dialling_nonce, self.called_nonce] {
            mac.update(&(nonce.len() as u64).to_be_bytes());
            mac.update(nonce);
        }
        Some(mac)
    }

    /// The proof of one end.
    pub fn proof(&self, role: Role) -> [u8; PROOF_BYTES] {
        // HMAC takes keys of any length, so there always is a mac.
        self.mac(role)
            .map_or([0; PROOF_BYTES], |mac| mac.finalize().into_bytes().into())
    }

    /// Check the other end's proof, in constant time.
    pub fn verify(&self, role: Role, proof: &[u8]) -> bool {
        self.mac(role).is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }
}
