//! Bytes of the extension that are neither the log's nor a record's: a node's small files, what members know of each other,
//! proofs. Fixtures are append-only: a format that changes gets a new version and new files. One that is missing is written
//! when `SYNOD_WRITE_FIXTURES` is set; one that exists is never touched.
//!
//! The files under test know nothing of the server, and so are taken in here as they are.

#[path = "../../../extension/src/identity/codec.rs"]
#[allow(dead_code, reason = "the file is the extension's")]
mod codec;
#[path = "../../../extension/src/handshake.rs"]
#[allow(dead_code, reason = "the file is the extension's")]
mod handshake;
#[path = "../../../extension/src/text.rs"]
#[allow(dead_code, reason = "the file is the extension's")]
mod text;

use std::path::PathBuf;

use codec::{ExpectedTables, Identity, MemberInfo, decode_incarnation, encode_incarnation};
use handshake::{Admission, Handshake, NONCE_BYTES, PROTOCOL_VERSION, Role};
use synod_log::{LogId, NodeId};

fn fixture(name: &str, encoded: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/formats/fixtures")
        .join(name);
    if !path.exists() && std::env::var_os("SYNOD_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, encoded).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes, encoded, "{name}: today's encoder makes other bytes");
    bytes
}

fn identity() -> Identity {
    Identity {
        group: [0x11; 16],
        group_name: "mokka".into(),
        node: NodeId(3),
        name: "größe".into(),
        dsn: "host=10.0.0.3 dbname=app".into(),
        log: LogId([0x22; 16]),
        system_identifier: 0x0123_4567_89ab_cdef,
        database: 16_384,
        secret: std::array::from_fn(|index| index as u8),
    }
}

#[test]
fn identity_file_of_version_1() {
    let bytes = fixture("node_v1.bin", &identity().encode());
    assert!(Identity::decode(&bytes) == Ok(identity()));
}

fn expected() -> ExpectedTables {
    ExpectedTables {
        position: 0x1234,
        node: 2,
        transaction: 77,
        relations: vec![16_384, 16_390],
    }
}

#[test]
fn incarnation_file_of_version_1() {
    let bytes = fixture("incarnation_v1.bin", &encode_incarnation(0x0123_4567_89ab_cdef));
    assert_eq!(decode_incarnation(&bytes), Ok(0x0123_4567_89ab_cdef));
}

#[test]
fn file_of_expected_tables_of_version_1() {
    let bytes = fixture("expected_v1.bin", &expected().encode());
    assert_eq!(ExpectedTables::decode(&bytes), Ok(expected()));
}

#[test]
fn any_flipped_or_missing_byte_of_a_file_is_noticed() {
    let every_damage = |bytes: Vec<u8>, is_refused: &dyn Fn(&[u8]) -> bool| {
        for at in 0..bytes.len() {
            assert!(is_refused(&bytes[..at]), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            assert!(is_refused(&flipped), "flipped at {at}");
        }
        let mut longer = bytes[..bytes.len() - 4].to_vec();
        longer.push(0);
        let crc = crc32c::crc32c(&longer);
        longer.extend_from_slice(&crc.to_be_bytes());
        assert!(is_refused(&longer), "a byte too many");
    };
    every_damage(identity().encode(), &|bytes| Identity::decode(bytes).is_err());
    every_damage(encode_incarnation(7), &|bytes| decode_incarnation(bytes).is_err());
    every_damage(expected().encode(), &|bytes| ExpectedTables::decode(bytes).is_err());
    // One kind of file is not taken for another.
    assert!(
        decode_incarnation(&expected().encode()).is_err() && ExpectedTables::decode(&encode_incarnation(7)).is_err()
    );
}

#[test]
fn member_of_version_1() {
    let info = MemberInfo {
        name: "n1".into(),
        dsn: "host=10.0.0.1 dbname=app".into(),
        system_identifier: 7,
        database: 5,
        server_version: 150_020,
    };
    let bytes = fixture("member_v1.bin", &info.encode());
    assert_eq!(MemberInfo::decode(&bytes), Some(info));
}

#[test]
fn proofs_of_protocol_1() {
    assert_eq!(PROTOCOL_VERSION, 1, "another protocol has other proofs");
    let handshake = Handshake {
        secret: &[1; 32],
        group: &[2; 16],
        from: 1,
        to: 2,
        dialling_nonce: &[3; NONCE_BYTES],
        called_nonce: &[4; NONCE_BYTES],
    };
    let admission = Admission {
        secret: &[1; 32],
        group: &[2; 16],
        log: &[5; 16],
    };
    let proofs = [
        handshake.proof(Role::Dialling),
        handshake.proof(Role::Called),
        admission.proof(),
    ];
    fixture(
        "proofs_1.txt",
        proofs.map(|proof| text::hex(&proof)).join("\n").as_bytes(),
    );
    assert!(admission.verify(&proofs[2]) && !admission.verify(&proofs[0]) && !admission.verify(&[]));
}

#[test]
fn a_sign_is_no_hexadecimal_digit() {
    assert_eq!(text::from_hex("0b"), Some(vec![11]));
    for digits in ["+b", "-1", "0", "0g", "ü", " 1"] {
        assert_eq!(text::from_hex(digits), None, "{digits}");
    }
}
