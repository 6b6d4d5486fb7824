//! One cluster for all tests of a binary: making one takes seconds, most tests need only a fresh table.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cluster::{Cluster, Options};
use crate::crash;

/// A cluster made at its first use. A test that fails poisons the lock; the next one gets a new cluster.
pub struct SharedCluster {
    slot: Mutex<Option<Cluster>>,
    options: Options<'static>,
}

/// Exclusive use of the shared cluster.
pub struct Lease<'a>(MutexGuard<'a, Option<Cluster>>);

impl SharedCluster {
    /// For a static.
    pub const fn new(options: Options<'static>) -> Self {
        Self {
            slot: Mutex::new(None),
            options,
        }
    }

    /// The cluster, for this test alone.
    #[track_caller]
    pub fn lease(&self) -> Lease<'_> {
        let mut slot = self.slot.lock().unwrap_or_else(|poisoned| {
            let mut slot = PoisonError::into_inner(poisoned);
            *slot = None;
            self.slot.clear_poison();
            slot
        });
        if slot.is_none() {
            *slot = Some(Cluster::start_with(&self.options));
        }
        Lease(slot)
    }
}

impl std::ops::Deref for Lease<'_> {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().expect("a lease holds a cluster")
    }
}

impl std::ops::DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Cluster {
        self.0.as_mut().expect("a lease holds a cluster")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let servers = self.0.iter().flat_map(|cluster| cluster.nodes());
            crash::assert_none(servers.map(|node| &node.server));
        }
    }
}
