//! The functions of a table run as its owner, whoever is made to run them: expressions of generated columns and indexes, and
//! the CHECKs and triggers that COPY runs. Otherwise an owner who is no superuser would have the apply worker and the joining
//! session, which are, run his code with their rights. As the server does for REINDEX and ANALYZE, and since release 16 for
//! subscriptions.
//!
//! On an error the end of the (sub)transaction puts back user and settings.

use pgrx::pg_sys;

use super::relcache::Relation;

/// The owner of a table, where that is not a superuser.
#[derive(Clone, Copy)]
pub struct Owner(pg_sys::Oid);

impl Owner {
    /// `None`: nothing is gained by running its functions.
    pub fn to_become(relation: &Relation) -> Option<Self> {
        let owner = relation.class().relowner;
        // SAFETY: inside a transaction; a role that is gone is no superuser.
        (!unsafe { pg_sys::superuser_arg(owner) }).then_some(Self(owner))
    }
}

/// The current user is a table's owner, and cannot get back by itself, until this is dropped.
pub struct AsOwner {
    user: pg_sys::Oid,
    context: i32,
    level: i32,
}

impl AsOwner {
    /// Inside a transaction.
    pub fn enter(owner: Owner) -> Self {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: inside a transaction; undone on drop, or by abort.
        let level = unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(owner.0, context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
            pg_sys::NewGUCNestLevel()
        };
        Self { user, context, level }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: as in `enter`; what a function has set is undone as the server does it.
            unsafe {
                pg_sys::AtEOXact_GUC(false, self.level);
                pg_sys::SetUserIdAndSecContext(self.user, self.context);
            }
        }
    }
}
