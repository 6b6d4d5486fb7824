//! The envelope `debezium`: every type as its consumers expect it, from the snapshot and from the stream alike, and times as
//! PostgreSQL itself counts them.

use super::*;

const TABLE: &str = "\
CREATE DOMAIN millis AS timestamp(3); CREATE DOMAIN later AS millis;
CREATE TABLE t (id int PRIMARY KEY, big bigint, n numeric(20,4), f float8, yes boolean, d date, ti time, ti3 time(3), titz timetz,
    ts timestamp, ts3 later, tstz timestamptz, i interval, one bit, bits bit varying(12), raw bytea, j jsonb, a int[], da date[], txt text,
    masked timestamp)";

const ROWS: &str = "\
INSERT INTO t VALUES (1, 9007199254740993, 1.5, 'NaN', true, '2016-11-04', '13:51:30.123789', '13:51:30.123', '13:51:30.5+02',
    '2016-11-04 13:51:30.123456', '2016-11-04 13:51:30.123', '2016-11-04 13:51:30.123456+02', '1 year 2 mons 3 days 04:05:06.00078', B'1',
    B'100000001', '\\x00ff', '{\"a\": 1}', '{1,NULL}', '{2016-11-04}', 'ä\"', '2016-11-04');
INSERT INTO t (id, n, d, ts, tstz, ts3) VALUES (2, 'NaN', 'infinity', 'infinity', '-infinity', '-infinity');
INSERT INTO t (id, d, ts, tstz) VALUES (3, '0044-03-15 BC', '4713-01-01 00:00:00 BC', '0044-03-15 12:00:00+00 BC');
INSERT INTO t (id, d, ts) SELECT 100 + n, date '1000-01-01' + n * 977, timestamp '1000-01-01 00:00:01.000001' + n * interval '977 days 1 s'
  FROM generate_series(1, 500) n";

#[test]
fn values_are_what_consumers_of_debezium_read() {
    let server = server();
    let mut client = database(&server, "debezium", TABLE);
    client.batch_execute(ROWS).unwrap();
    let dsn = server.dsn_of("debezium");
    let more = [
        "--envelope",
        "debezium",
        "--option",
        "mask-columns=public.t(masked 'hidden')",
        "--until-caught-up",
    ];
    let snapshot = objects(&streamed(&dsn, &[&more[..], &["--create", "--initial-snapshot"]].concat()).out);
    client.batch_execute("DELETE FROM t").unwrap();
    client.batch_execute(ROWS).unwrap();
    let followed = objects(&streamed(&dsn, &more).out);
    let after = |events: &[Value], op: &str| -> Vec<Value> {
        let of = events.iter().filter(|event| event["op"] == op);
        of.map(|event| event["after"].clone()).collect()
    };
    let rows = after(&followed, "c");
    assert_eq!(rows, after(&snapshot, "r"), "the snapshot tells the same");
    let first = serde_json::json!({
        "id": 1, "big": 9_007_199_254_740_993_i64, "n": "1.5000", "f": "NaN", "yes": true, "d": 17_109, "ti": 49_890_123_789_i64,
        "ti3": 49_890_123, "titz": "11:51:30.5Z", "ts": 1_478_267_490_123_456_i64, "ts3": 1_478_267_490_123_i64,
        "tstz": "2016-11-04T11:51:30.123456Z", "i": 37_091_106_000_780_i64, "one": true, "bits": "AQE=", "raw": "AP8=",
        "j": "{\"a\": 1}", "a": [1, null], "da": [17_109], "txt": "ä\"", "masked": "hidden",
    });
    assert_eq!(rows[0], first);
    let second = &rows[1];
    assert_eq!(second["n"], "NAN");
    assert_eq!(second["d"], 2_147_483_647);
    assert_eq!(second["ts"], 9_223_372_036_825_200_000_i64);
    assert_eq!(second["ts3"], -9_223_372_036_832_400_i64);
    assert_eq!(second["tstz"], "-infinity");
    assert_eq!(rows[2]["tstz"], "-0043-03-15T12:00:00.000000Z");
    let counted = client
        .query(
            "SELECT id, d - date '1970-01-01', (extract(epoch FROM ts) * 1000000)::bigint FROM t WHERE id > 2 ORDER BY id",
            &[],
        )
        .unwrap();
    assert_eq!(counted.len(), 501);
    for (row, told) in counted.iter().zip(&rows[2..]) {
        let expected = (row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, i64>(2));
        assert_eq!(
            (&told["id"], &told["d"], &told["ts"]),
            (&expected.0.into(), &expected.1.into(), &expected.2.into())
        );
    }
    streamed(&dsn, &["--drop-slot"]);
}
