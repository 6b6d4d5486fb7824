//! Messages that say what a record did: they arrive as they were written, wherever they are cut, and nothing damaged panics.

use proptest::prelude::*;
use synod_change::TransactionId;
use synod_change::stream::record_message::{Item, ItemReader, RecordHeader, RecordMessage};

/// An item that owns its bytes.
#[derive(Clone, Debug)]
enum Owned {
    Insert(u32, Vec<u8>),
    Update(u32, Option<Vec<u8>>, Vec<u8>),
    Delete(u32, Option<Vec<u8>>),
    Truncate(bool, Vec<u32>),
    TooLarge(u32),
    Ddl,
}

impl Owned {
    fn item(&self) -> Item<'_> {
        match self {
            Self::Insert(relation, new) => Item::Insert {
                relation: *relation,
                new,
            },
            Self::Update(relation, old, new) => Item::Update {
                relation: *relation,
                old: old.as_deref(),
                new,
            },
            Self::Delete(relation, old) => Item::Delete {
                relation: *relation,
                old: old.as_deref(),
            },
            Self::Truncate(restart_identity, relations) => Item::Truncate {
                restart_identity: *restart_identity,
                relations: relations.clone(),
            },
            Self::TooLarge(relation) => Item::TooLarge { relation: *relation },
            Self::Ddl => Item::Ddl,
        }
    }
}

fn row() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

fn item() -> impl Strategy<Value = Owned> {
    prop_oneof![
        (any::<u32>(), row()).prop_map(|(relation, new)| Owned::Insert(relation, new)),
        (any::<u32>(), proptest::option::of(row()), row())
            .prop_map(|(relation, old, new)| Owned::Update(relation, old, new)),
        (any::<u32>(), proptest::option::of(row())).prop_map(|(relation, old)| Owned::Delete(relation, old)),
        (any::<bool>(), proptest::collection::vec(any::<u32>(), 0..5))
            .prop_map(|(restart, relations)| Owned::Truncate(restart, relations)),
        any::<u32>().prop_map(Owned::TooLarge),
        Just(Owned::Ddl),
    ]
}

proptest! {
    #[test]
    fn items_survive_any_cut(items in proptest::collection::vec(item(), 0..8), sizes in proptest::collection::vec(1..300_usize, 1..20)) {
        let mut bytes = Vec::new();
        items.iter().for_each(|item| item.item().encode(&mut bytes));
        let (mut reader, mut at, mut seen) = (ItemReader::default(), 0, 0);
        for size in sizes.iter().cycle() {
            let piece = &bytes[at..(at + size).min(bytes.len())];
            at += piece.len();
            reader.read(piece, |item| {
                assert_eq!(item, items[seen].item());
                seen += 1;
            }).unwrap();
            if at == bytes.len() {
                break;
            }
        }
        prop_assert_eq!(seen, items.len());
        prop_assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn messages_arrive_as_they_were_sent(csn in 1..u64::MAX, before in any::<u64>(), number in any::<u64>(), time in any::<i64>(), items in row()) {
        let header = RecordHeader {
            group: [7; 16],
            csn,
            previous_csn: before % csn,
            transaction: TransactionId { node: 3, incarnation: 5, number },
            commit_time_us: time,
        };
        for message in [
            RecordMessage::Begin(header, &items),
            RecordMessage::More([9; 16], &items),
            RecordMessage::End(header, &items),
            RecordMessage::Nothing,
            RecordMessage::Copied(csn),
        ] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            prop_assert_eq!(RecordMessage::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in row(), cut in any::<prop::sample::Index>()) {
        let _ = RecordMessage::decode(&bytes);
        let mut reader = ItemReader::default();
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        let _ = reader.read(head, |_| ());
        let _ = reader.read(tail, |_| ());
        let _ = reader.finish();
    }
}

#[test]
fn an_item_that_is_cut_off_is_noticed() {
    let mut bytes = Vec::new();
    Item::Insert {
        relation: 1,
        new: b"row",
    }
    .encode(&mut bytes);
    let mut reader = ItemReader::default();
    reader
        .read(&bytes[..bytes.len() - 1], |_| panic!("it is not whole"))
        .unwrap();
    assert!(reader.finish().is_err());
}
