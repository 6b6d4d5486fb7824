//! Every way to write and read: what a client may send to a plain PostgreSQL does the same to strong tables.
//!
//! What can be said in SQL is a script of `statements/`, run on the group and on a plain database; here is the rest: what
//! depends on the protocol, and on more than one session.

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
            run_script(&CLUSTER.lease(), stringify!($name), include_str!(concat!("statements/", stringify!($name), ".sql")));
        }
    )*};
}

scripts! { dml transactions programs triggers sessions }
