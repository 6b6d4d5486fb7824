//! Messages that look like ours. Without the key nobody is told of them. Who has the key, which is in the WAL for a role with
//! REPLICATION to read, can have false things told, but not end a process of the server.

use postgres::Client;
use synod_change::stream::record_message::{Item, ItemReader, RecordMessage};

use synod_testkit::assert_converged;

use super::reader::{Cell, What, make_slot, read_with};
use super::{CLUSTER, read_all};

/// Bytes of the key.
const KEY: usize = 16;

/// Anybody may write logical messages. What looks like ours, and is not, is told to nobody and does no harm.
#[test]
fn forged_records_are_passed_over() {
    let cluster = CLUSTER.lease();
    cluster.create_table("forged", "CREATE TABLE forged (id int PRIMARY KEY)");
    let mut client = cluster.client(0);
    make_slot(&mut client, "forged");
    let relation: u32 = client.query_one("SELECT 'forged'::regclass::oid", &[]).unwrap().get(0);
    let (mut items, mut message) = (Vec::new(), vec![7; KEY]);
    // Infomasks that promise more than there is.
    let new = [255, 7, 0, 8, 24];
    Item::Insert { relation, new: &new }.encode(&mut items);
    RecordMessage::More([7; 16], &items).encode(&mut message);
    for content in [&message[..], &message[KEY..], b""] {
        client
            .batch_execute("BEGIN; INSERT INTO forged SELECT count(*) FROM forged")
            .unwrap();
        for prefix in ["synod.record", "synod.context", "synod.ddl"] {
            emit(&mut client, prefix, content);
        }
        client.batch_execute("COMMIT").unwrap();
    }
    let options = ", 'include-ddl', 'on', 'include-context', 'on'";
    let reading = read_with(&mut client, "forged", options).unwrap();
    assert_eq!(reading.told.len(), 3, "{reading:?}");
    assert_eq!(reading.local, Vec::<String>::new());
    assert_eq!(reading.lines.len(), 3 * 3, "{reading:?}");
    client
        .execute("SELECT pg_drop_replication_slot('forged')", &[])
        .unwrap();
}

/// One of each way in which values stand in messages: as they are stored, as they travel in binary and as text.
const TABLE: &str = "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b text);
     CREATE TABLE hostile (id int PRIMARY KEY, gone text, small smallint, note text, price numeric, tags int[], doc jsonb, span int4range,
         ip inet, feeling mood, both_of pair, label name, path path, day date, size interval);
     ALTER TABLE hostile DROP COLUMN gone; ALTER TABLE hostile REPLICA IDENTITY FULL";

/// Bytes of a row that a node wrote are changed, one at a time, and the result told under the node's key. A reader gets an error, or a row.
#[test]
fn who_knows_the_key_cannot_end_the_process_that_reads() {
    let cluster = CLUSTER.lease();
    cluster.create_table("hostile", TABLE);
    for node in 0..cluster.len() {
        make_slot(&mut cluster.client(node), "hostile");
    }
    let mut client = cluster.client(0);
    for statement in [
        "SELECT pg_create_logical_replication_slot('spy', 'test_decoding')",
        "INSERT INTO hostile VALUES (7, 3, 'a note', 12.50, '{1,NULL,3}', '{\"a\": [1, null]}', '[2,5)', '10.0.0.1/8', 'glad',
             '(4,\"x y\")', 'lbl', '((0,0),(1,2))', '2024-02-29', '1 mon 02:03:04.5')",
        "UPDATE hostile SET small = 4",
    ] {
        client.batch_execute(statement).unwrap();
    }
    assert_converged(&cluster, &["hostile"]);
    let expected = "7 4 'a note' 12.50 {1,NULL,3} {\"a\": [1, null]} [2,5) 10.0.0.1/8 glad (4,\"x y\") lbl ((0,0),(1,2)) 2024-02-29 1 mon 02:03:04.5";
    for reading in read_all(&cluster, "hostile", "") {
        let Some(What::Update(Some(_), new)) = reading.told.last().map(|told| &told.what) else {
            panic!("{reading:?}")
        };
        let texts: Vec<&str> = new.iter().map(text).collect();
        assert_eq!(texts.join(" "), expected.replace('\'', ""));
    }

    let (key, message) = spied(&mut client);
    let RecordMessage::End(header, items) = RecordMessage::decode(&message).unwrap() else {
        panic!("what is written where a transaction was made: {message:?}")
    };
    let (mut relation, mut row) = (0, Vec::new());
    ItemReader::default()
        .read(items, |item| {
            if let Item::Update { relation: of, new, .. } = item {
                (relation, row) = (of, new.to_vec());
            }
        })
        .unwrap();
    let mut outcomes = [0, 0];
    let mut forge = |client: &mut Client, row: &[u8], old: bool| {
        let mut items = Vec::new();
        let item = match old {
            true => Item::Delete {
                relation,
                old: Some(row),
            },
            false => Item::Insert { relation, new: row },
        };
        item.encode(&mut items);
        let mut message = key.clone();
        RecordMessage::Begin(header, &items).encode(&mut message);
        emit(client, "synod.record", &message);
        outcomes[usize::from(is_told(client, "hostile"))] += 1;
    };
    forge(&mut client, &row, false);
    for at in 0..row.len() {
        let bytes = [0xff, row[at] ^ 0x80, 0, 1];
        let some = if at < 8 { &bytes[..] } else { &bytes[at % 4..=at % 4] };
        for (number, byte) in some.iter().enumerate() {
            let mut wrong = row.clone();
            wrong[at] = *byte;
            forge(&mut client, &wrong, number % 2 == 1);
        }
        if at % 8 == 0 {
            forge(&mut client, &row[..at], false);
        }
    }
    let [refused, told] = outcomes;
    assert!(refused > 80 && told > 20, "{refused} refused, {told} told");

    // Tables that no message tells of.
    for table in ["pg_catalog.pg_class", "pg_catalog.pg_class_oid_index"] {
        let of = client
            .query_one("SELECT $1::text::regclass::oid", &[&table])
            .unwrap()
            .get(0);
        let (mut items, mut message) = (Vec::new(), key.clone());
        Item::Insert {
            relation: of,
            new: &row,
        }
        .encode(&mut items);
        RecordMessage::Begin(header, &items).encode(&mut message);
        emit(&mut client, "synod.record", &message);
        assert!(!is_told(&mut client, "hostile"), "{table}");
    }
    client
        .batch_execute("SELECT pg_drop_replication_slot('spy')")
        .expect("the session lives: the server was never restarted");
    super::drop_slots(&cluster, "hostile");
    // The types are not for nodes that join later.
    client
        .batch_execute("DROP TABLE hostile; DROP TYPE mood, pair")
        .unwrap();
}

fn text(cell: &Cell) -> &str {
    match cell {
        Cell::Text(text) => text,
        _ => "",
    }
}

fn emit(client: &mut Client, prefix: &str, content: &[u8]) {
    let sql = "SELECT pg_logical_emit_message(true, $1, $2::bytea)";
    client.execute(sql, &[&prefix, &content]).unwrap();
}

/// Whether the slot tells all that it has; otherwise that is left out, after an error.
#[track_caller]
fn is_told(client: &mut Client, slot: &str) -> bool {
    client
        .execute("SELECT pg_logical_emit_message(true, 'flushed', '')", &[])
        .unwrap();
    let sql = "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'format', 'json')";
    match client.query(sql, &[&slot]) {
        Ok(_) => true,
        Err(error) => {
            let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
            assert!(
                !code.is_empty() && !code.starts_with("57"),
                "the server has ended: {error:?}"
            );
            let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())";
            client.execute(advance, &[&slot]).unwrap();
            false
        }
    }
}

/// Key and content of the last message that a node wrote, as a reader of another plugin sees it.
fn spied(client: &mut Client) -> (Vec<u8>, Vec<u8>) {
    client
        .execute("SELECT pg_logical_emit_message(true, 'flushed', '')", &[])
        .unwrap();
    let sql = "SELECT data FROM pg_logical_slot_peek_binary_changes('spy', NULL, NULL)";
    let rows: Vec<Vec<u8>> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let is_ours = |row: &&Vec<u8>| row.starts_with(b"message: transactional: 1 prefix: synod.record");
    let message = rows.iter().rfind(is_ours).expect("a message of ours");
    let content = b" content:";
    let at = message.windows(content.len()).position(|part| part == content).unwrap() + content.len();
    let (key, content) = message[at..].split_at(KEY);
    (key.to_vec(), content.to_vec())
}
