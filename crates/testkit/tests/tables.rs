//! Every kind of table: columns of all types, keys and constraints of all kinds, partitions, policies.
//!
//! What can be said in SQL is a script of `tables/`, run on the group and on a plain database; here is what is refused,
//! and what needs nodes that differ.

use synod_testkit::{Options, SharedCluster, run_script};

/// The servers' own fsync does not matter here; without it, DDL is fast.
static CLUSTER: SharedCluster = SharedCluster::new(Options {
    settings: &[("fsync", "off")],
    ..Options::DEFAULT
});

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run_script(&CLUSTER.lease(), stringify!($name), include_str!(concat!("tables/", stringify!($name), ".sql")));
        }
    )*};
}

scripts! { types keys foreign_keys contrib access columns }
