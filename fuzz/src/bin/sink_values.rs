//! Values as Debezium tells them, of any type and from any text: always JSON. Covers
//! crates/sinks/src/debezium.rs, crates/sinks/src/calendar.rs.
#![no_main]

use synod_sinks::calendar;
use synod_sinks::debezium::Kind;

const TYPES: [&str; 16] = [
    "bigint",
    "double precision",
    "boolean",
    "numeric(10,2)",
    "date",
    "time(3) without time zone",
    "time with time zone",
    "timestamp without time zone",
    "timestamp(3) with time zone",
    "interval",
    "bit(1)",
    "bit varying",
    "bytea",
    "text[]",
    "timestamp with time zone[]",
    "box[]",
];

synod_fuzz::target!(|data: &[u8]| {
    let mut out = Vec::new();
    for name in TYPES {
        out.clear();
        Kind::of(name).write(data, &mut out);
        let told = serde_json::from_slice::<serde_json::Value>(&out);
        assert!(told.is_ok(), "{name}: {}", String::from_utf8_lossy(&out));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Kind::of(text);
        let _ = (calendar::zone(text), calendar::time_of_day(text), calendar::days(text));
        if let Some(us) = calendar::instant(text) {
            let _ = calendar::utc(us, data.len() as u8);
        }
    }
});
