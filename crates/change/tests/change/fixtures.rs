//! Bytes of released formats. Append-only: a format that changes gets a new version and new files.
//!
//! A fixture that is missing is written when `SYNOD_WRITE_FIXTURES` is set; one that exists is never touched.

use std::path::PathBuf;

use bytes::Bytes;
use synod_change::stream::own_message::{DdlMessage, decode_context, encode_context};
use synod_change::{
    Append, Body, BodyReader, BodyWriter, Change, CheckDefinition, ColumnDefinition, DdlLockRecord, DdlStatement,
    ExpectedTable, ForeignKeyAction, ForeignKeyDefinition, Grant, Identity, IndexDefinition, Key, KeyMode, Record, Row,
    Service, TableDefinition, TableId, TransactionId, Value, ValueKind, Wire, WriteRecord,
};

pub fn fixture(name: &str, encoded: &[u8]) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    if !path.exists() && std::env::var_os("SYNOD_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, encoded).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes, encoded, "{name}: today's encoder makes other bytes");
    bytes.into()
}

/// Of a version that is not written any more.
fn old_fixture(name: &str) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    std::fs::read(path).unwrap().into()
}

/// A write set of every version from `oldest` on: all have the same layout.
fn body_since(oldest: u8, name: &str, changes: &[Change<'_>]) {
    let mut writer = BodyWriter::new();
    changes.iter().for_each(|change| writer.write(change));
    let encoded = writer.finish();
    for version in oldest..=3 {
        let name = format!("{name}_v{version}.bin");
        let bytes = match version {
            3 => fixture(&name, &encoded),
            _ => old_fixture(&name),
        };
        let mut reader = BodyReader::new(&bytes[..]);
        assert_eq!(reader.has_generated(), Ok(version >= 2), "{name}");
        for change in changes {
            assert_eq!(reader.next(), Ok(Some(change.clone())), "{name}");
        }
        assert_eq!(reader.next(), Ok(None), "{name}");
    }
}

fn write_record(body: Body) -> WriteRecord {
    let key = |(hash, mode)| Key { hash, mode };
    WriteRecord {
        base: 4711,
        transaction: TransactionId {
            node: 3,
            incarnation: 2 << 32 | 77,
            number: 300,
        },
        commit_time_us: 800_000_000_000_000,
        keys: KeyMode::ALL
            .into_iter()
            .enumerate()
            .map(|(n, mode)| (n as u64 * 1_000_003, mode))
            .map(key)
            .collect(),
        body,
    }
}

#[test]
fn records_of_version_1() {
    let records = [
        (
            "record_start_v1.bin",
            Record::Start {
                postgres_version: 150_020,
                synod_version: 100,
            },
        ),
        (
            "record_write_inline_v1.bin",
            Record::Write(write_record(Body::Inline(Bytes::from_static(b"the body")))),
        ),
        (
            "record_write_fragments_v1.bin",
            Record::Write(write_record(Body::Fragments {
                positions: vec![4000, 4001, 4710],
                length: 600_000,
                crc: 0xdead_beef,
            })),
        ),
        (
            "record_fragment_v1.bin",
            Record::Fragment(Bytes::from_static(b"a piece")),
        ),
        (
            "record_ddl_lock_v1.bin",
            Record::DdlLock(DdlLockRecord {
                transaction: 300,
                all: false,
                tables: vec![TableId(7), TableId(0x0123_4567_89ab_cdef)],
                expected: Vec::new(),
            }),
        ),
        (
            "record_ddl_lock_expecting_v1.bin",
            Record::DdlLock(DdlLockRecord {
                transaction: 300,
                all: true,
                tables: vec![TableId(7)],
                expected: vec![
                    ExpectedTable {
                        schema: "public".into(),
                        name: "Größen".into(),
                    },
                    ExpectedTable::default(),
                ],
            }),
        ),
        (
            "record_ddl_unlock_v1.bin",
            Record::DdlUnlock(TransactionId {
                node: 3,
                incarnation: 2 << 32 | 77,
                number: 300,
            }),
        ),
    ];
    for (name, record) in records {
        assert_eq!(Record::decode(&fixture(name, &record.encode())), Ok(record), "{name}");
    }
}

fn definition() -> TableDefinition {
    TableDefinition {
        id: TableId(0x0123_4567_89ab_cdef),
        schema: "public".into(),
        name: "Konten".into(),
        columns: vec![
            ColumnDefinition {
                name: "aid".into(),
                type_name: "pg_catalog.int4".into(),
                typmod: -1,
                not_null: true,
                identity: Some('d'),
                wire: Wire::Binary,
                ..ColumnDefinition::default()
            },
            ColumnDefinition {
                name: "größe".into(),
                type_name: "pg_catalog.varchar".into(),
                typmod: 84,
                collation: Some("pg_catalog.\"de_DE\"".into()),
                generated: Some("upper(x)".into()),
                ..ColumnDefinition::default()
            },
        ],
        identity: Identity::Columns(vec![0]),
        indexes: vec![IndexDefinition {
            id: 1,
            unique: true,
            definition: "UNIQUE btree (aid)".into(),
            columns: vec![0],
        }],
        foreign_keys: vec![ForeignKeyDefinition {
            referenced: TableId(9),
            referenced_name: "public.branches".into(),
            columns: vec![1],
            referenced_index: 2,
            on_update: ForeignKeyAction::Cascade,
            on_delete: ForeignKeyAction::SetNull,
            definition: "FOREIGN KEY (\"größe\") REFERENCES public.branches(bid)".into(),
        }],
        checks: vec![CheckDefinition {
            name: "positive".into(),
            definition: "CHECK ((aid > 0))".into(),
        }],
        partitioned_by: Some("RANGE (aid)".into()),
        partition_of: Some("public.accounts FOR VALUES IN (1)".into()),
    }
}

#[test]
fn definition_of_version_1() {
    let bytes = fixture("definition_v1.bin", &definition().encode());
    assert_eq!(TableDefinition::decode(&bytes), Ok(definition()));
}

#[test]
fn services_of_version_1() {
    let services = [
        (
            "service_append_v1.bin",
            Service::Append(Append {
                log: "primary".into(),
                after: Some(41),
                time_us: 800_000_000_000_000,
                kind: ValueKind::Text,
                value: "Zürich".into(),
            }),
        ),
        (
            "service_trim_v1.bin",
            Service::Trim {
                log: "primary".into(),
                before: 300,
            },
        ),
        (
            "service_grant_v1.bin",
            Service::Grant(Grant {
                feeds: vec![(TableId(7), 0), (TableId(0x0123_4567_89ab_cdef), 300)],
                first: -5,
                count: 1000,
                increment: -2,
                least: i64::MIN,
                greatest: i64::MAX,
                cycle: true,
                exact: false,
            }),
        ),
    ];
    for (name, service) in services {
        let mut encoded = Vec::new();
        service.encode(&mut encoded);
        assert_eq!(Service::decode(&fixture(name, &encoded)), Ok(service), "{name}");
    }
}

#[test]
fn body_with_every_change() {
    let long = [b'x'; 300];
    let row = [
        Value::Binary(&[0, 0, 0, 42]),
        Value::Text("Zürich".as_bytes()),
        Value::Null,
        Value::Text(&long),
    ];
    let new = [
        Value::Binary(&[0, 0, 0, 42]),
        Value::Text(b""),
        Value::Null,
        Value::Same,
    ];
    let (table, other) = (TableId(7), TableId(u64::MAX));
    let changes = [
        Change::Ddl(Box::new(DdlStatement {
            of_group: true,
            transaction_time_us: 800_000_000_000_000,
            role: "owner".into(),
            text: "ALTER TABLE t ADD c int".into(),
            only_without: "public.t".into(),
            settings: vec![("search_path".into(), "public".into())],
        })),
        Change::AddTable(Box::new(definition())),
        Change::Insert {
            table,
            new: Row::new(&row),
        },
        Change::Update {
            table,
            key: Row::new(&row[..1]),
            new: Row::new(&new),
        },
        Change::Delete {
            table: other,
            key: Row::new(&row[..2]),
        },
        Change::Sequence {
            table: other,
            column: 2,
            last_value: -5,
        },
        Change::Truncate {
            tables: vec![table, other],
            restart_identity: true,
            cascade: false,
        },
        Change::RemoveTable(other),
    ];
    body_since(1, "body", &changes);
}

#[test]
fn body_with_rows_that_change_their_keys_or_partitions() {
    let row = [Value::Binary(&[0, 0, 0, 42]), Value::Null];
    let new = [Value::Binary(&[0, 0, 0, 43]), Value::Same];
    let (key, table) = (Row::new(&row[..1]), TableId(7));
    let changes = [
        Change::Replace {
            table,
            key,
            new: Row::new(&new),
        },
        Change::Depart { table, key },
    ];
    body_since(2, "body_keys", &changes);
}

#[test]
fn body_with_a_context() {
    let row = [Value::Binary(&[0, 0, 0, 42])];
    let changes = [
        Change::Context(r#"{"session_user":"zoë","values":{"ticket":4711}}"#),
        Change::Insert {
            table: TableId(7),
            new: Row::new(&row),
        },
    ];
    body_since(1, "body_context", &changes);
}

#[test]
fn messages_of_version_1() {
    let context = r#"{"session_user":"zoë","values":{"ticket":4711}}"#;
    let bytes = fixture("message_context_v1.bin", &encode_context(context));
    assert_eq!(decode_context(&bytes), Ok(context));
    let ddl = DdlMessage {
        tag: "ALTER TABLE".into(),
        object_type: "table".into(),
        object: "public.\"größe\"".into(),
        sql: "ALTER TABLE \"größe\" ADD c int".into(),
        search_path: "\"$user\", public".into(),
        tables: vec![16_384, u32::MAX],
    };
    let bytes = fixture("message_ddl_v1.bin", &ddl.encode());
    assert_eq!(DdlMessage::decode(&bytes), Ok(ddl));
}
