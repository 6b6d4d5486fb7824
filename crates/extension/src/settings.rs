//! The settings `synod.*`. Each says what it does, its unit and its default.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// What a read of a strong table waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum ReadConsistency {
    /// Every write that returned before, on any node.
    #[name = c"strong"]
    Strong,
    /// Every write that this session made or saw.
    #[name = c"session"]
    Session,
    /// Nothing.
    #[name = c"local"]
    Local,
}

/// Where DDL takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum DdlMode {
    /// On every node of the group.
    #[name = c"group"]
    Group,
    /// On this node.
    #[name = c"local"]
    Local,
}

/// `synod.ddl`
pub static DDL: GucSetting<DdlMode> = GucSetting::<DdlMode>::new(DdlMode::Group);

/// What becomes of a transaction that writes both strong tables and other permanent ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum MixedTransactions {
    /// It is rolled back.
    #[name = c"refuse"]
    Refuse,
    /// It commits; a crash between the log's decision and the local commit loses its local part.
    #[name = c"allow"]
    Allow,
}

/// `synod.mixed_transactions`
pub static MIXED_TRANSACTIONS: GucSetting<MixedTransactions> =
    GucSetting::<MixedTransactions>::new(MixedTransactions::Refuse);
/// `synod.read_consistency`
pub static READ_CONSISTENCY: GucSetting<ReadConsistency> = GucSetting::<ReadConsistency>::new(ReadConsistency::Strong);
/// `synod.commit_timeout`, milliseconds
pub static COMMIT_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// `synod.read_timeout`, milliseconds
pub static READ_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// `synod.lock_grace`, milliseconds
pub static LOCK_GRACE_MS: GucSetting<i32> = GucSetting::<i32>::new(1_000);
/// The most that `synod.max_transaction_size` can be: a record has room for so many fragments, 16 GB of them.
pub const MOST_TRANSACTION_SIZE_MB: i32 = 16 * 1024 - 1;
/// `synod.max_transaction_size`, megabytes
pub static MAX_TRANSACTION_SIZE_MB: GucSetting<i32> = GucSetting::<i32>::new(1_024);
/// `synod.log_retention`, megabytes
pub static LOG_RETENTION_MB: GucSetting<i32> = GucSetting::<i32>::new(1_024);
/// `synod.auto_rejoin`
pub static AUTO_REJOIN: GucSetting<bool> = GucSetting::<bool>::new(true);

/// `synod.replicate_unconfirmed`
pub static REPLICATE_UNCONFIRMED: GucSetting<bool> = GucSetting::<bool>::new(false);

/// `synod.sequence_range`, values
pub static SEQUENCE_RANGE: GucSetting<i32> = GucSetting::<i32>::new(1_000);

/// `synod.leader_lease`
pub static LEADER_LEASE: GucSetting<bool> = GucSetting::<bool>::new(false);

/// `synod.leader_follows_writers`
pub static LEADER_FOLLOWS_WRITERS: GucSetting<bool> = GucSetting::<bool>::new(true);

/// `synod.stream_context`
pub static STREAM_CONTEXT: GucSetting<bool> = GucSetting::<bool>::new(false);
/// `synod.stream_ddl`
pub static STREAM_DDL: GucSetting<bool> = GucSetting::<bool>::new(true);

/// `synod.audit_max_wal`, megabytes
pub static AUDIT_MAX_WAL_MB: GucSetting<i32> = GucSetting::<i32>::new(0);
/// `synod.audit_retention`, minutes
pub static AUDIT_RETENTION_MINUTES: GucSetting<i32> = GucSetting::<i32>::new(0);

/// `synod.failpoint`: see `pg/failpoint.rs`
pub static FAILPOINT: GucSetting<Option<std::ffi::CString>> = GucSetting::<Option<std::ffi::CString>>::new(None);

/// Define all settings and reserve the prefix.
pub fn define() {
    GucRegistry::define_enum_guc(
        c"synod.read_consistency",
        c"What a read of a strong table waits for.",
        c"strong: every write that returned before on any node; session: this session's own writes; local: nothing.",
        &READ_CONSISTENCY,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"synod.ddl",
        c"Where statements that change definitions take effect.",
        c"group: on every node, through the shared log; local: on this node only, and not on replicated tables.",
        &DDL,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"synod.mixed_transactions",
        c"Whether a transaction may write strong tables and other permanent tables.",
        c"refuse: it fails with 0A000; allow: its other writes are local to the node, and a crash, or a commit whose outcome \
          is told as unknown (08007), can lose them although the rest of the transaction is committed.",
        &MIXED_TRANSACTIONS,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"synod.replicate_unconfirmed",
        c"Lets a table be replicated although a member cannot be asked about it.",
        c"If the table is missing, different or has rows there, that node stops applying when it is back; what was written there \
          meanwhile is not the group's.",
        &REPLICATE_UNCONFIRMED,
        GucContext::Userset,
        GucFlags::default(),
    );
    let milliseconds = |name, short, long, setting, minimum| {
        GucRegistry::define_int_guc(
            name,
            short,
            long,
            setting,
            minimum,
            3_600_000,
            GucContext::Userset,
            GucFlags::UNIT_MS,
        );
    };
    milliseconds(
        c"synod.commit_timeout",
        c"How long a commit waits for the shared log.",
        c"After it, a transaction that was not proposed fails (57P03), one that was has an unknown outcome (08007).",
        &COMMIT_TIMEOUT_MS,
        10,
    );
    milliseconds(
        c"synod.read_timeout",
        c"How long a strong read waits for the shared log.",
        c"After it the statement fails with 57P03.",
        &READ_TIMEOUT_MS,
        10,
    );
    GucRegistry::define_int_guc(
        c"synod.lock_grace",
        c"How long an idle transaction, or a commit without a verdict, may hold a lock that replication needs.",
        c"After it the session is terminated, or the outcome of the commit unknown (08007).",
        &LOCK_GRACE_MS,
        0,
        3_600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"synod.leader_lease",
        c"Lets the leader answer strong reads without asking a majority, for a time that it is promised.",
        c"Relies on clocks: those of two servers must not differ in rate by more than a part in twenty, also in virtual machines that are paused.",
        &LEADER_LEASE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"synod.leader_follows_writers",
        c"Lets the leader hand over to the node whose clients write nearly everything.",
        c"A commit there then costs one way less. Without effect while this node leads with synod.leader_lease.",
        &LEADER_FOLLOWS_WRITERS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    let megabytes = |name, short, long, setting, context, maximum| {
        GucRegistry::define_int_guc(name, short, long, setting, 1, maximum, context, GucFlags::UNIT_MB);
    };
    megabytes(
        c"synod.max_transaction_size",
        c"Largest write set of one transaction.",
        c"A larger one fails with 54000 before anything is logged.",
        &MAX_TRANSACTION_SIZE_MB,
        GucContext::Userset,
        MOST_TRANSACTION_SIZE_MB,
    );
    megabytes(
        c"synod.log_retention",
        c"How much of the shared log a node keeps for members that are away.",
        c"A member that was away longer needs a fresh copy of the tables (synod.auto_rejoin).",
        &LOG_RETENTION_MB,
        GucContext::Sighup,
        1 << 30,
    );
    GucRegistry::define_bool_guc(
        c"synod.auto_rejoin",
        c"Whether a node that was away for too long makes a fresh copy of the replicated tables by itself.",
        c"Too long: the other nodes have trimmed what it needs from the shared log (synod.log_retention).",
        &AUTO_REJOIN,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"synod.sequence_range",
        c"How many values of a replicated table's sequence a node is granted at once.",
        c"More while they are used up quickly. What is granted and not used when the node stops is lost.",
        &SEQUENCE_RANGE,
        1,
        100_000_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    stream();
    GucRegistry::define_string_guc(
        c"synod.failpoint",
        c"Makes the named step of a commit fail, for tests.",
        c"Empty: none.",
        &FAILPOINT,
        GucContext::Suset,
        GucFlags::NO_SHOW_ALL,
    );
    crate::pg::reserve_prefix();
}

/// What the change stream tells beside rows.
fn stream() {
    GucRegistry::define_bool_guc(
        c"synod.stream_context",
        c"Whether transactions tell the change stream who makes them, also where synod.context says nothing.",
        c"Costs one small WAL record for each transaction that writes, where somebody may read it.",
        &STREAM_CONTEXT,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"synod.stream_ddl",
        c"Whether statements that change definitions are told in the change stream.",
        c"Nothing is written unless wal_level is logical and the database has a slot of the plugin synod.",
        &STREAM_DDL,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"synod.audit_max_wal",
        c"How much WAL is kept for auditing while it cannot go on.",
        c"Above it the audit gives up its replication slot, and has a gap. 0: no limit of its own.",
        &AUDIT_MAX_WAL_MB,
        0,
        1 << 30,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"synod.audit_retention",
        c"How long synod.audit keeps what it has.",
        c"0: for ever.",
        &AUDIT_RETENTION_MINUTES,
        0,
        100 * 366 * 24 * 60,
        GucContext::Sighup,
        GucFlags::UNIT_MIN,
    );
    crate::pg::context::values::define();
}
