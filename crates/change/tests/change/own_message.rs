//! Our own messages in the WAL: there and back, of a newer release, damaged.

use proptest::collection::vec;
use proptest::prelude::*;
use synod_change::DecodeError;
use synod_change::stream::own_message::{DdlMessage, decode_context, encode_context};

use crate::made;

fn ddl() -> impl Strategy<Value = DdlMessage> {
    (
        ".{0,10}",
        ".{0,10}",
        ".{0,10}",
        ".{0,40}",
        ".{0,10}",
        vec(any::<u32>(), 0..4),
    )
        .prop_map(|(tag, object_type, object, sql, search_path, tables)| DdlMessage {
            tag,
            object_type,
            object,
            sql,
            search_path,
            tables,
        })
}

proptest! {
    #[test]
    fn round_trip(context in ".{0,60}", ddl in ddl()) {
        let bytes = encode_context(&context);
        prop_assert_eq!(decode_context(&bytes), Ok(&*context));
        prop_assert_eq!(DdlMessage::decode(&ddl.encode()), Ok(ddl));
    }

    #[test]
    fn damage_does_not_panic(ddl in ddl(), damage in made::damage(), noise in vec(any::<u8>(), 0..40)) {
        let damaged = made::damaged(&ddl.encode(), &damage);
        if let Ok(read) = DdlMessage::decode(&damaged) {
            // A message in the WAL has the WAL's checksum; this one must only be what its bytes say.
            prop_assert_eq!(DdlMessage::decode(&read.encode()), Ok(read));
        }
        let _ = (DdlMessage::decode(&noise), decode_context(&noise));
    }
}

#[test]
fn a_newer_version_is_said_to_be_one() {
    let newer = |what: &'static str| DecodeError::Unknown { what, number: 2 };
    assert_eq!(
        decode_context(&[2, b'{', b'}']),
        Err(newer("version of context messages"))
    );
    assert_eq!(DdlMessage::decode(&[2, 0]), Err(newer("version of DDL messages")));
    assert!(decode_context(&[]).is_err() && decode_context(&[1, 0xff]).is_err());
}
