//! Records, rows and definitions at random.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use synod_change::{
    Append, Body, Change, CheckDefinition, ColumnDefinition, DdlStatement, ForeignKeyAction, ForeignKeyDefinition,
    Grant, Identity, IndexDefinition, Key, KeyMode, Record, Row, Service, TableDefinition, TableId, TransactionId,
    Value, ValueKind, Wire, WriteRecord,
};

/// A number of any magnitude.
pub fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(number, shift)| number >> shift)
}

pub fn key() -> impl Strategy<Value = Key> {
    (any::<u64>(), 0u8..4).prop_map(|(hash, mode)| Key {
        hash,
        mode: KeyMode::from_u8(mode).unwrap(),
    })
}

fn body() -> impl Strategy<Value = Body> {
    let positions = vec(number(), 0..20).prop_map(|mut positions| {
        positions.retain(|position| *position > 0);
        positions.sort_unstable();
        positions.dedup();
        positions
    });
    prop_oneof![
        vec(any::<u8>(), 0..300).prop_map(|bytes| Body::Inline(Bytes::from(bytes))),
        (positions, number(), any::<u32>()).prop_map(|(positions, length, crc)| Body::Fragments {
            positions,
            length,
            crc
        }),
    ]
}

pub fn write_record() -> impl Strategy<Value = WriteRecord> {
    let transaction = (any::<u32>(), number(), number()).prop_map(|(node, incarnation, number)| TransactionId {
        node,
        incarnation,
        number,
    });
    (number(), transaction, any::<i64>(), vec(key(), 0..40), body()).prop_map(
        |(base, transaction, commit_time_us, keys, body)| WriteRecord {
            base,
            transaction,
            commit_time_us,
            keys,
            body,
        },
    )
}

pub fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        1 => (any::<u32>(), any::<u32>())
            .prop_map(|(postgres_version, synod_version)| Record::Start { postgres_version, synod_version }),
        4 => write_record().prop_map(Record::Write),
        1 => vec(any::<u8>(), 0..300).prop_map(|bytes| Record::Fragment(Bytes::from(bytes))),
    ]
}

fn text() -> impl Strategy<Value = String> {
    "[a-z \"é]{0,12}"
}

fn column() -> impl Strategy<Value = ColumnDefinition> {
    (
        (text(), text(), any::<i32>(), any::<bool>()),
        (
            option::of(text()),
            option::of(text()),
            option::of(prop_oneof![Just('a'), Just('d')]),
            any::<bool>(),
        ),
    )
        .prop_map(
            |((name, type_name, typmod, not_null), (collation, generated, identity, binary))| {
                let wire = if binary { Wire::Binary } else { Wire::Text };
                ColumnDefinition {
                    name,
                    type_name,
                    typmod,
                    not_null,
                    collation,
                    generated,
                    identity,
                    wire,
                }
            },
        )
}

fn foreign_key() -> impl Strategy<Value = ForeignKeyDefinition> {
    let action = || prop::sample::select(b"arcnd".to_vec()).prop_map(|l| ForeignKeyAction::from_letter(l).unwrap());
    (
        any::<u64>(),
        text(),
        vec(any::<u16>(), 0..4),
        any::<u32>(),
        action(),
        action(),
        text(),
    )
        .prop_map(
            |(referenced, referenced_name, columns, referenced_index, on_update, on_delete, definition)| {
                ForeignKeyDefinition {
                    referenced: TableId(referenced),
                    referenced_name,
                    columns,
                    referenced_index,
                    on_update,
                    on_delete,
                    definition,
                }
            },
        )
}

pub fn definition() -> impl Strategy<Value = TableDefinition> {
    let identity = prop_oneof![
        Just(Identity::FullRow),
        vec(any::<u16>(), 0..4).prop_map(Identity::Columns)
    ];
    let index =
        (any::<u32>(), any::<bool>(), text(), vec(any::<u16>(), 0..4)).prop_map(|(id, unique, definition, columns)| {
            IndexDefinition {
                id,
                unique,
                definition,
                columns,
            }
        });
    let check = (text(), text()).prop_map(|(name, definition)| CheckDefinition { name, definition });
    let parts = (
        vec(column(), 0..6),
        identity,
        vec(index, 0..4),
        vec(foreign_key(), 0..3),
        vec(check, 0..3),
        (option::of(text()), option::of(text())),
    );
    (any::<u64>(), text(), text(), parts).prop_map(
        |(id, schema, name, (columns, identity, indexes, foreign_keys, checks, partitions))| TableDefinition {
            id: TableId(id),
            schema,
            name,
            columns,
            identity,
            indexes,
            foreign_keys,
            checks,
            partitioned_by: partitions.0,
            partition_of: partitions.1,
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop::sample::select(vec![ValueKind::Bytea, ValueKind::Text, ValueKind::Jsonb]);
    let append = (
        "[a-z]{1,57}",
        option::of(any::<u64>()),
        any::<i64>(),
        kind,
        vec(any::<u8>(), 0..200),
    )
        .prop_map(|(log, after, time_us, kind, value)| {
            Service::Append(Append {
                log,
                after,
                time_us,
                kind,
                value,
            })
        });
    let trim = ("[a-z]{1,57}", any::<u64>()).prop_map(|(log, before)| Service::Trim { log, before });
    prop_oneof![append, trim, grant().prop_map(Service::Grant)]
}

pub fn grant() -> impl Strategy<Value = Grant> {
    let feeds = vec((any::<u64>().prop_map(TableId), any::<u16>()), 0..3);
    let limits = (any::<i64>(), any::<i64>()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let increment = prop_oneof![-5i64..0, 1i64..5, Just(i64::MIN), Just(i64::MAX)];
    let numbers = (any::<i64>(), prop_oneof![1u64..5000, Just(u64::MAX)], increment, limits);
    (feeds, numbers, any::<bool>(), any::<bool>()).prop_map(
        |(feeds, (first, count, increment, (least, greatest)), cycle, exact)| Grant {
            feeds,
            first,
            count,
            increment,
            least,
            greatest,
            cycle,
            exact,
        },
    )
}

/// A value that owns its bytes.
#[derive(Clone, Debug)]
pub enum OwnedValue {
    Null,
    Same,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

/// A change that owns its rows.
#[derive(Clone, Debug)]
pub enum OwnedChange {
    Plain(Change<'static>),
    Insert(TableId, Vec<OwnedValue>),
    Update(TableId, Vec<OwnedValue>, Vec<OwnedValue>),
    Delete(TableId, Vec<OwnedValue>),
    Replace(TableId, Vec<OwnedValue>, Vec<OwnedValue>),
    Depart(TableId, Vec<OwnedValue>),
    Context(String),
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

impl OwnedChange {
    pub fn with<T>(&self, body: impl FnOnce(Change<'_>) -> T) -> T {
        match self {
            Self::Plain(change) => body(change.clone()),
            Self::Context(context) => body(Change::Context(context)),
            Self::Insert(table, new) => body(Change::Insert {
                table: *table,
                new: Row::new(&values(new)),
            }),
            Self::Delete(table, key) => body(Change::Delete {
                table: *table,
                key: Row::new(&values(key)),
            }),
            Self::Depart(table, key) => body(Change::Depart {
                table: *table,
                key: Row::new(&values(key)),
            }),
            Self::Replace(table, key, new) => body(Change::Replace {
                table: *table,
                key: Row::new(&values(key)),
                new: Row::new(&values(new)),
            }),
            Self::Update(table, key, new) => body(Change::Update {
                table: *table,
                key: Row::new(&values(key)),
                new: Row::new(&values(new)),
            }),
        }
    }
}

pub fn change() -> impl Strategy<Value = OwnedChange> {
    let table = || (0u64..3).prop_map(|number| TableId(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let value = prop_oneof![
        Just(OwnedValue::Null),
        Just(OwnedValue::Same),
        vec(any::<u8>(), 0..200).prop_map(OwnedValue::Text),
        vec(any::<u8>(), 0..200).prop_map(OwnedValue::Binary),
    ];
    let row = vec(value, 0..8);
    let plain = prop_oneof![
        definition().prop_map(|definition| Change::AddTable(Box::new(definition))),
        table().prop_map(Change::RemoveTable),
        (
            any::<bool>(),
            any::<i64>(),
            ".{0,8}",
            ".{0,20}",
            vec((".{0,5}", ".{0,5}"), 0..4)
        )
            .prop_map(|(of_group, transaction_time_us, role, text, settings)| {
                Change::Ddl(Box::new(DdlStatement {
                    of_group,
                    transaction_time_us,
                    only_without: role.clone(),
                    role,
                    text,
                    settings,
                }))
            }),
        (vec(table(), 0..4), any::<bool>(), any::<bool>()).prop_map(|(tables, restart_identity, cascade)| {
            Change::Truncate {
                tables,
                restart_identity,
                cascade,
            }
        }),
        (table(), any::<u16>(), any::<i64>()).prop_map(|(table, column, last_value)| Change::Sequence {
            table,
            column,
            last_value
        }),
        service().prop_map(|service| Change::Service(Box::new(service))),
    ];
    prop_oneof![
        1 => plain.prop_map(OwnedChange::Plain),
        1 => ".{0,40}".prop_map(OwnedChange::Context),
        2 => (table(), row.clone()).prop_map(|(table, new)| OwnedChange::Insert(table, new)),
        2 => (table(), row.clone(), row.clone()).prop_map(|(table, key, new)| OwnedChange::Update(table, key, new)),
        1 => (table(), row.clone(), row.clone()).prop_map(|(table, key, new)| OwnedChange::Replace(table, key, new)),
        1 => (table(), row.clone()).prop_map(|(table, key)| OwnedChange::Depart(table, key)),
        1 => (table(), row).prop_map(|(table, key)| OwnedChange::Delete(table, key)),
    ]
}

/// Ways to damage bytes.
#[derive(Clone, Debug)]
pub enum Damage {
    Flip { at: prop::sample::Index, bit: u8 },
    Cut { at: prop::sample::Index },
    Insert { at: prop::sample::Index, byte: u8 },
}

pub fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        at().prop_map(|at| Damage::Cut { at }),
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert { at, byte }),
    ]
}

/// What was damaged differs from what was given.
pub fn damaged(bytes: &[u8], damage: &Damage) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match damage {
        Damage::Flip { at, bit } => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Cut { at } => bytes.truncate(at.index(bytes.len())),
        Damage::Insert { at, byte } => bytes.insert(at.index(bytes.len() + 1), *byte),
    }
    bytes
}
