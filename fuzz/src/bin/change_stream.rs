//! The change stream in binary: read, written again, and written in every other format. Covers
//! crates/change/src/stream/binary/reader.rs, crates/change/src/stream/binary/frame.rs.
#![no_main]

use synod_change::stream::binary::{Reader, Writer};
use synod_change::stream::{new_format, Encoding, Environment, Format, FORMATS};
use synod_change::DecodeError;
use synod_fuzz::put_crc;

const HEAD: usize = 9;

fn environment(encoding: Encoding) -> Environment {
    Environment {
        time: |time, out| out.extend_from_slice(time.to_string().as_bytes()),
        encoding,
        text_encoding: "UTF8",
        setting: |_| b"default".to_vec(),
    }
}

/// What a reader is told of these bytes, written again; whether they are sound to their end.
fn written(data: &[u8]) -> (Vec<u8>, usize, bool) {
    let (mut reader, mut writer) = (Reader::new(), Writer::new(Vec::new()));
    let (mut out, mut events) = (Vec::new(), 0);
    let read = reader.read(data, |event| {
        events += 1;
        writer.write(event, &mut out);
        Ok::<(), DecodeError>(())
    });
    (out, events, read.is_ok())
}

fn check(data: &[u8]) {
    let (first, events, _) = written(data);
    let (second, again, sound) = written(&first);
    assert!(sound, "what was written does not read");
    assert_eq!(events, again, "events got lost");
    assert_eq!(first, second, "what was written reads differently");
    for name in FORMATS {
        for encoding in [
            Encoding::Utf8,
            Encoding::Other,
            Encoding::Unknown,
            Encoding::UnknownHere,
        ] {
            let Some(mut format) = new_format(name, environment(encoding)) else {
                continue;
            };
            let mut out = Vec::new();
            let _ = Reader::new().read(data, |event| {
                out.clear();
                format.write(event, &mut out);
                Ok::<(), DecodeError>(())
            });
        }
    }
}

synod_fuzz::target!(|data: &[u8]| {
    let _ = Reader::frame_length(data);
    check(data);
    let mut sealed = data.to_vec();
    let mut at = 0;
    while at + HEAD <= sealed.len() {
        if sealed[at] == b'\n' {
            at += 1;
            continue;
        }
        let word = [sealed[at + 1], sealed[at + 2], sealed[at + 3], sealed[at + 4]];
        let end = (at + HEAD)
            .saturating_add(u32::from_le_bytes(word) as usize)
            .min(sealed.len());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&sealed[at..at + 5]), &sealed[at + HEAD..end]);
        put_crc(&mut sealed, at + 5, crc);
        at = end;
    }
    check(&sealed);
});
