//! A shop's tables, and a stream about them that has an event of every kind: for golden files and for reading.

use synod_change::stream::{Column, ReplicaIdentity, Table, TypeClass};

use super::made::{OwnedEvent, OwnedValue, What, simple};

fn quoted(name: &str) -> Vec<u8> {
    if name.bytes().all(|byte| byte.is_ascii_lowercase()) {
        name.into()
    } else {
        format!("\"{name}\"").into()
    }
}

fn tables() -> Vec<Table> {
    let column = |number: i16, name: &str, type_name: &str, full: &str, type_oid, class| Column {
        name: name.into(),
        quoted_name: quoted(name),
        type_name: type_name.into(),
        full_type_name: full.into(),
        base_type_name: type_name.into(),
        full_base_type_name: full.into(),
        type_oid,
        number,
        class,
        type_modifier: -1,
        ..Column::default()
    };
    let mut id = column(1, "id", "bigint", "bigint", 20, TypeClass::Integer);
    (id.not_null, id.in_primary_key, id.in_identity, id.identity) = (true, true, true, Some('a'));
    let mut price = column(3, "price", "numeric", "numeric(8,2)", 1700, TypeClass::Number);
    (price.type_modifier, price.default) = (524_294, Some("0.00".into()));
    let mut colour = column(
        4,
        "Farbe",
        "public.\"Farbe\"",
        "public.\"Farbe\"",
        16_390,
        TypeClass::Text,
    );
    (colour.base_type_name, colour.masked) = ("character varying".into(), true);
    colour.full_base_type_name = "character varying(20)".into();
    let mut search = column(6, "search", "tsvector", "tsvector", 3614, TypeClass::Text);
    search.generated = true;
    let table = Table {
        version: 3,
        oid: 16_400,
        schema: "public".into(),
        name: "Güter".into(),
        quoted_name: "public.\"Güter\"".into(),
        columns: vec![id, price, colour, search],
        identity: ReplicaIdentity::Default,
        ..Table::default()
    };
    let history = Table {
        version: 4,
        oid: 16_410,
        schema: "public".into(),
        name: "history".into(),
        quoted_name: "public.history".into(),
        columns: vec![column(
            1,
            "at",
            "timestamp with time zone",
            "timestamp with time zone",
            1184,
            TypeClass::Text,
        )],
        identity: ReplicaIdentity::Nothing,
        partitioned: true,
        ..Table::default()
    };
    vec![table, history]
}

fn whats() -> Vec<What> {
    let text = |text: &str| OwnedValue::Text(text.as_bytes().to_vec());
    let mut row = vec![text("1"), text("10.50"), text("rot \"\\\n"), OwnedValue::Null];
    let mut events = vec![
        What::Begin,
        What::Context("{\"user\": \"anna\"}".into()),
        What::Insert(0, row.clone()),
    ];
    row[2] = OwnedValue::Same;
    let key = vec![text("1"), OwnedValue::Null, OwnedValue::Null, OwnedValue::Null];
    let texts = [
        "ALTER TABLE",
        "table",
        "public.history",
        "ALTER TABLE history ADD at timestamptz",
        "public",
    ];
    events.extend([
        What::Update(0, None, row.clone()),
        What::Update(0, Some(key.clone()), row.clone()),
        What::Ddl(texts.map(Into::into), vec![1]),
        What::Delete(0, Some(key)),
        What::Delete(1, None),
        What::Truncate(vec![(0, 0), (1, 0)], true, true),
        What::Message(true, "audit".into(), b"\0\xff".to_vec()),
        What::Commit,
        What::Message(false, "hint".into(), b"flush".to_vec()),
        What::BeginPrepare,
        What::Insert(0, row.clone()),
        What::Prepare,
        What::CommitPrepared,
        What::RollbackPrepared,
        What::StreamStart,
        What::Insert(0, row),
        What::StreamStop,
        What::StreamAbort(742),
        What::StreamPrepare,
        What::StreamCommit,
    ]);
    events
}

/// The tables, and the events: a transaction, a message, a prepared transaction, one in progress.
pub fn shop() -> (Vec<Table>, Vec<OwnedEvent>) {
    let mut events: Vec<_> = whats().into_iter().map(simple).collect();
    let mut ordinal = 0;
    for (number, event) in events.iter_mut().enumerate() {
        event.place.lsn += 0x40 * number as u64;
        match event.what {
            What::Insert(..) | What::Update(..) | What::Delete(..) | What::Message(true, ..) | What::Ddl(..) => {
                ordinal += 1
            }
            What::Truncate(..) => ordinal += 2,
            What::BeginPrepare | What::StreamStart => ordinal = 0,
            _ => {}
        }
        event.place.id.3 = ordinal;
        if number >= 12 {
            event.of.gid = Some("hands off".into());
            event.place.id = (0, "6d1f1c7e-0000-4000-8000-00000000000a".into(), 4711, ordinal);
            event.of.csn = Some((event.place.id.1.clone(), 4711));
            event.of.numbers.previous_csn = Some(4709);
        }
        if number >= 17 {
            event.of.origin = Some("Außenstelle".into());
            (event.of.numbers.origin_id, event.of.numbers.origin_lsn) = (3, 0x1234);
            event.of.context = Some("{}".into());
            event.of.csn = None;
            event.of.numbers.previous_csn = None;
            (event.of.numbers.commit_lsn, event.of.numbers.end_lsn) = (None, None);
            event.place.id = (2, String::new(), 741, ordinal);
            event.place.xid = 742;
        }
    }
    // TRUNCATE's id is that of its first table.
    events[8].place.id.3 -= 1;
    (tables(), events)
}
