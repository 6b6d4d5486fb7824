//! Events to write: made up at random, and one of each kind.

use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::stream::{
    Change, Column, Ddl, Emptied, Event, EventId, Message, Place, ReplicaIdentity, Table, Transaction, TypeClass,
};
use synod_change::{Row, Value};

/// A value that owns its bytes.
#[derive(Clone, Debug)]
pub enum OwnedValue {
    Null,
    Same,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

fn values(row: &[OwnedValue]) -> Vec<Value<'_>> {
    let value = |value| match value {
        &OwnedValue::Null => Value::Null,
        &OwnedValue::Same => Value::Same,
        OwnedValue::Text(bytes) => Value::Text(bytes),
        OwnedValue::Binary(bytes) => Value::Binary(bytes),
    };
    row.iter().map(value).collect()
}

/// What an [`OwnedEvent`] is about.
#[derive(Clone, Debug)]
pub enum What {
    Begin,
    Commit,
    BeginPrepare,
    Prepare,
    CommitPrepared,
    RollbackPrepared,
    StreamStart,
    StreamStop,
    StreamAbort(u32),
    StreamPrepare,
    StreamCommit,
    Insert(usize, Vec<OwnedValue>),
    Update(usize, Option<Vec<OwnedValue>>, Vec<OwnedValue>),
    Delete(usize, Option<Vec<OwnedValue>>),
    /// Tables, each with how many ordinals lie between the one before and it.
    Truncate(Vec<(usize, u64)>, bool, bool),
    Message(bool, Vec<u8>, Vec<u8>),
    Ddl([Vec<u8>; 5], Vec<usize>),
    Context(Vec<u8>),
}

/// A transaction that owns its texts.
#[derive(Clone, Debug, Default)]
pub struct OwnedTransaction {
    pub numbers: Transaction<'static>,
    pub origin: Option<Vec<u8>>,
    pub csn: Option<(String, u64)>,
    pub gid: Option<Vec<u8>>,
    pub context: Option<Vec<u8>>,
}

impl OwnedTransaction {
    pub fn lend(&self) -> Transaction<'_> {
        Transaction {
            origin: self.origin.as_deref(),
            csn: self.csn.as_ref().map(|(group, csn)| (group.as_str(), *csn)),
            gid: self.gid.as_deref(),
            context: self.context.as_deref(),
            ..self.numbers
        }
    }
}

/// Where an [`OwnedEvent`] stands.
#[derive(Clone, Debug)]
pub struct OwnedPlace {
    pub id: (u8, String, u64, u64),
    pub lsn: u64,
    pub xid: u32,
}

impl OwnedPlace {
    fn lend(&self) -> Place<'_> {
        let (kind, group, base, ordinal) = (self.id.0, &self.id.1, self.id.2, self.id.3);
        Place {
            id: match kind {
                0 => EventId::Group {
                    group,
                    csn: base,
                    ordinal,
                },
                1 => EventId::Commit { lsn: base, ordinal },
                _ => EventId::Open {
                    xid: base as u32,
                    ordinal,
                },
            },
            lsn: self.lsn,
            xid: self.xid,
        }
    }
}

/// An event that owns what it tells. `tables` are told from outside.
#[derive(Clone, Debug)]
pub struct OwnedEvent {
    pub what: What,
    pub of: OwnedTransaction,
    pub place: OwnedPlace,
}

impl OwnedEvent {
    pub fn with<T>(&self, tables: &[Table], body: impl FnOnce(&Event<'_>) -> T) -> T {
        let of = self.of.lend();
        let row = |change| Event::Row(self.place.lend(), change);
        let pick = |numbers: &[usize]| numbers.iter().map(|number| &tables[*number]).collect::<Vec<_>>();
        let event = match &self.what {
            What::Begin => Event::Begin(of),
            What::Commit => Event::Commit(of),
            What::BeginPrepare => Event::BeginPrepare(of),
            What::Prepare => Event::Prepare(of),
            What::CommitPrepared => Event::CommitPrepared(of),
            What::RollbackPrepared => Event::RollbackPrepared(of),
            What::StreamStart => Event::StreamStart(of),
            What::StreamStop => Event::StreamStop(of),
            What::StreamAbort(xid) => Event::StreamAbort(of, *xid),
            What::StreamPrepare => Event::StreamPrepare(of),
            What::StreamCommit => Event::StreamCommit(of),
            What::Insert(table, new) => {
                let (table, new) = (&tables[*table], &values(new)[..]);
                return body(&row(Change::Insert {
                    table,
                    new: Row::new(new),
                }));
            }
            What::Update(table, old, new) => {
                let (table, new, old) = (&tables[*table], values(new), old.as_deref().map(values));
                return body(&row(Change::Update {
                    table,
                    old: old.as_deref().map(Row::new),
                    new: Row::new(&new),
                }));
            }
            What::Delete(table, old) => {
                let (table, old) = (&tables[*table], old.as_deref().map(values));
                return body(&row(Change::Delete {
                    table,
                    old: old.as_deref().map(Row::new),
                }));
            }
            What::Truncate(numbers, cascade, restart_identity) => {
                let mut next = 0;
                let emptied = numbers.iter().map(|(number, between)| {
                    let later = next + between;
                    next = later + 1;
                    Emptied {
                        table: &tables[*number],
                        later,
                    }
                });
                return body(&row(Change::Truncate {
                    tables: &emptied.collect::<Vec<_>>(),
                    cascade: *cascade,
                    restart_identity: *restart_identity,
                }));
            }
            What::Message(transactional, prefix, content) => Event::Message(
                self.place.lend(),
                Message {
                    transactional: *transactional,
                    prefix,
                    content,
                },
            ),
            What::Ddl([tag, object_type, object, sql, search_path], numbers) => Event::Ddl(
                self.place.lend(),
                Ddl {
                    tag,
                    object_type,
                    object,
                    sql,
                    search_path,
                    tables: pick(numbers),
                },
            ),
            What::Context(context) => Event::Context(context),
        };
        body(&event)
    }
}

/// How many columns the tables of [`tables`] have.
pub const COLUMNS: [usize; 4] = [0, 1, 3, 3];

/// Names are bytes: a database in SQL_ASCII has them as they come.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => ".{0,6}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..6),
    ]
}

pub fn column() -> impl Strategy<Value = Column> {
    let class = prop::sample::select(vec![
        TypeClass::Integer,
        TypeClass::Number,
        TypeClass::Boolean,
        TypeClass::Bits,
        TypeClass::Json,
        TypeClass::Bytes,
        TypeClass::Text,
    ]);
    let texts = (vec(bytes(), 6), prop::option::of(bytes()), prop::option::of(bytes()));
    let numbers = (any::<u32>(), any::<i32>(), any::<i16>());
    let flags = (
        any::<[bool; 5]>(),
        prop::option::of(prop::sample::select(vec!['a', 'd'])),
    );
    (texts, class, numbers, flags).prop_map(|(texts, class, numbers, (flags, identity))| Column {
        name: texts.0[0].clone(),
        quoted_name: texts.0[1].clone(),
        type_name: texts.0[2].clone(),
        full_type_name: texts.0[3].clone(),
        base_type_name: texts.0[4].clone(),
        full_base_type_name: texts.0[5].clone(),
        default: texts.1,
        type_oid: numbers.0,
        type_modifier: numbers.1,
        number: numbers.2,
        class,
        not_null: flags[0],
        generated: flags[1],
        identity,
        in_primary_key: flags[2],
        in_identity: flags[3],
        masked: flags[4],
        literal_type: texts.2,
    })
}

/// As many tables as [`COLUMNS`] says; the last is the third, altered.
pub fn tables() -> impl Strategy<Value = Vec<Table>> {
    let identity = prop::sample::select(vec![
        ReplicaIdentity::Default,
        ReplicaIdentity::Index,
        ReplicaIdentity::Full,
        ReplicaIdentity::Nothing,
    ]);
    let table = |number: usize| {
        (
            vec(column(), COLUMNS[number]),
            vec(bytes(), 3),
            identity.clone(),
            any::<[bool; 2]>(),
        )
            .prop_map(move |(columns, names, identity, flags)| {
                let [schema, name, quoted_name] = names.try_into().unwrap();
                Table {
                    version: 100 + number as u64,
                    oid: 16_384 + number.min(2) as u32,
                    schema,
                    name,
                    quoted_name,
                    columns,
                    identity,
                    identity_hidden: flags[0],
                    partitioned: flags[1],
                    above: None,
                }
            })
    };
    (table(0), table(1), table(2), table(3)).prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

fn row(columns: usize) -> impl Strategy<Value = Vec<OwnedValue>> {
    let value = prop_oneof![
        Just(OwnedValue::Null),
        Just(OwnedValue::Same),
        vec(any::<u8>(), 0..200).prop_map(OwnedValue::Text),
        vec(any::<u8>(), 0..20).prop_map(OwnedValue::Binary),
    ];
    vec(value, columns)
}

fn transaction() -> impl Strategy<Value = OwnedTransaction> {
    let numbers = (
        any::<u32>(),
        any::<[Option<u64>; 2]>(),
        any::<Option<i64>>(),
        any::<(u16, u64)>(),
    );
    let texts = (
        any::<Option<Vec<u8>>>(),
        any::<Option<Vec<u8>>>(),
        any::<Option<Vec<u8>>>(),
    );
    (numbers, texts, prop::option::of((".{0,3}", 0..3u64))).prop_map(
        |((xid, lsns, commit_time_us, (origin_id, origin_lsn)), (origin, gid, context), csn)| OwnedTransaction {
            numbers: Transaction {
                xid,
                commit_lsn: lsns[0],
                end_lsn: lsns[1],
                commit_time_us,
                origin_id,
                origin_lsn,
                previous_csn: csn.as_ref().and_then(|(_, csn): &(String, u64)| csn.checked_sub(1)),
                ..Transaction::default()
            },
            origin,
            csn,
            gid,
            context,
        },
    )
}

pub fn event() -> impl Strategy<Value = OwnedEvent> {
    let number = || 0..COLUMNS.len();
    // No event names two versions of one table.
    let numbers = |most| vec(0..COLUMNS.len() - 1, 0..most);
    let between = prop_oneof![2 => Just(0), 1 => 0..3u64, 1 => 0..u64::MAX / 8];
    let emptied = vec((0..COLUMNS.len() - 1, between), 0..4).prop_map(|mut emptied| {
        emptied.iter_mut().take(1).for_each(|(_, between)| *between = 0);
        emptied
    });
    let of_table = move || {
        number().prop_flat_map(|number| (Just(number), row(COLUMNS[number]), row(COLUMNS[number]), any::<bool>()))
    };
    let what = prop_oneof![
        2 => Just(What::Begin),
        1 => prop::sample::select(vec![
            What::Commit, What::BeginPrepare, What::Prepare, What::CommitPrepared, What::RollbackPrepared,
            What::StreamStart, What::StreamStop, What::StreamPrepare, What::StreamCommit, What::StreamAbort(7),
        ]),
        3 => of_table().prop_map(|(number, new, _, _)| What::Insert(number, new)),
        3 => of_table().prop_map(|(number, new, old, some)| What::Update(number, some.then_some(old), new)),
        3 => of_table().prop_map(|(number, _, old, some)| What::Delete(number, some.then_some(old))),
        1 => (emptied, any::<bool>(), any::<bool>()).prop_map(|(numbers, cascade, restart)| What::Truncate(numbers, cascade, restart)),
        1 => (any::<bool>(), bytes(), vec(any::<u8>(), 0..40)).prop_map(|(transactional, prefix, content)| What::Message(transactional, prefix, content)),
        1 => (any::<[Vec<u8>; 5]>(), numbers(3)).prop_map(|(texts, numbers)| What::Ddl(texts, numbers)),
        1 => vec(any::<u8>(), 0..20).prop_map(What::Context),
    ];
    let id = (0..3u8, ".{0,3}", 0..3u64, prop_oneof![1 => 0..4u64, 1 => any::<u64>()]);
    let place = (id, any::<u64>(), 0..3u32).prop_map(|(id, lsn, xid)| OwnedPlace { id, lsn, xid });
    (what, transaction(), place).prop_map(|(what, of, place)| OwnedEvent { what, of, place })
}

/// An event of a transaction that is nothing special.
pub fn simple(what: What) -> OwnedEvent {
    OwnedEvent {
        what,
        of: OwnedTransaction {
            numbers: Transaction {
                xid: 741,
                commit_lsn: Some(0x16_b3f0_0000),
                end_lsn: Some(0x16_b3f0_0030),
                commit_time_us: Some(849_024_000_123_456),
                ..Transaction::default()
            },
            ..OwnedTransaction::default()
        },
        place: OwnedPlace {
            id: (1, String::new(), 0x16_b3f0_0000, 1),
            lsn: 0x16_b3ef_ff00,
            xid: 741,
        },
    }
}
