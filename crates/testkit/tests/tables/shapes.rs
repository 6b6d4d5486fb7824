//! Values of all shapes inside of each other, also as keys and in rows without one, before and after their type has got other attributes.

use std::time::Duration;

use synod_testkit::{assert_converged, sqlstate, wait_until};

use crate::CLUSTER;

const DEADLINE: Duration = Duration::from_secs(30);

const TYPES: &str = "
    CREATE DOMAIN shape_count AS int CHECK (VALUE > 0);
    CREATE DOMAIN shape_time AS timestamp;
    CREATE TYPE shape_span AS RANGE (subtype = shape_time);
    CREATE TYPE shape_word AS ENUM ('x', 'y z');
    CREATE TYPE shape_inner AS (a shape_count, b text, c int4range[]);
    CREATE DOMAIN shape_checked AS shape_inner CHECK ((VALUE).a IS NULL OR (VALUE).a < 100);
    CREATE TYPE shape_outer AS (x shape_checked[], y shape_inner, z nummultirange, w varbit(5), v numeric(10, 3)[], u char(4), t \"char\", s name,
        r interval, q int2vector, p shape_span, o shape_span_multirange, n shape_word[], m jsonb, l float8[], k tsvector, j money, i point[],
        h box[], g inet);
    CREATE DOMAIN shape_outers AS shape_outer[]";

/// An inner value of each kind: with something in each attribute, with nothing, and with a long one.
fn inner(attributes_changed: bool) -> [String; 3] {
    let of = |a: &str, b: &str, c: &str, d: &str| {
        let values = if attributes_changed { [a, c, d] } else { [a, b, c] };
        format!("ROW({})::shape_inner", values.join(", "))
    };
    let ranges = "ARRAY['empty', '(,)', '[1,)', '(,5]', NULL]::int4range[]";
    [
        of("5", "'b\",('", ranges, "'\\x00ff'"),
        of("NULL", "NULL", "NULL", "NULL"),
        of(
            "7",
            "repeat(md5(random()::text), 3000)",
            "'{}'",
            "repeat(md5(random()::text), 3000)::bytea",
        ),
    ]
}

#[test]
fn values_of_all_shapes_travel_whatever_becomes_of_their_type() {
    const TABLES: [(&str, &str); 5] = [
        ("shape", "PRIMARY KEY (id)"),
        ("shape_whole", "CHECK (true)"),
        ("shape_by_row", "PRIMARY KEY (y)"),
        ("shape_by_array", "PRIMARY KEY (counts)"),
        ("shape_by_range", "PRIMARY KEY (span)"),
    ];
    let cluster = CLUSTER.lease();
    cluster.client(0).batch_execute(TYPES).unwrap();
    // A strong read: the types are everywhere.
    cluster.on_all("SELECT FROM synod.log_entry");
    for (table, key) in TABLES {
        let columns =
            "id int, gone int, o shape_outer, several shape_outers, m shape_checked[], y shape_inner NOT NULL,
            counts shape_count[] NOT NULL, span shape_span NOT NULL, long shape_inner, n int";
        let sql = format!("CREATE TABLE {table} ({columns}, {key}); ALTER TABLE {table} DROP COLUMN gone");
        cluster.create_table(table, &sql);
    }
    let mut number = 0;
    for changed in [false, true] {
        let [inner, nothing, long] = inner(changed);
        let outer = format!(
            "ROW(ARRAY[{inner}, NULL, {nothing}]::shape_checked[], {nothing}, '{{[1.10,2.500),(3,)}}', B'101', '{{1.500,NULL,NaN}}', 'ab', 'c',
             'name', '1 mon -1 day 00:00:01', '1 2 3', shape_span('-infinity', 'infinity', '[]'),
             shape_span_multirange(shape_span('2001-01-01', NULL)), '{{x,\"y z\"}}', '{{\"a\": [1.0, null]}}', '{{NaN,-0,Infinity}}', 'a:1 b', 12.5,
             '{{\"(1,2)\"}}', '{{(2,2),(1,1);(3,3),(1,1)}}', '10.0.0.0/8')::shape_outer"
        );
        for (table, _) in TABLES {
            for (node, values) in [
                format!(
                    "{outer}, ARRAY[{outer}, NULL], array_fill(({inner})::shape_checked, ARRAY[2, 3], ARRAY[-1, 5])"
                ),
                "NULL, NULL, '{}'".to_owned(),
                format!("NULL, '{{}}', ARRAY[[{nothing}, {inner}], [NULL, {nothing}]]::shape_checked[]"),
            ]
            .iter()
            .enumerate()
            {
                number += 1;
                let key = if changed { "NULL, '\\xff'" } else { "'', NULL" };
                let sql = format!(
                    "INSERT INTO {table} VALUES ({number}, {values}, ROW({number}, {key}), ARRAY[{number}],
                         shape_span(timestamp '2000-01-01' + {number} * interval '1 day', NULL), {long}, 0)"
                );
                let mut client = cluster.client(node);
                // An INSERT waits for nobody, and where the table is the key the row before may be unknown here.
                let inserted = wait_until(DEADLINE, &sql, || match client.batch_execute(&sql) {
                    Err(error) if sqlstate(&error) == Some("40001") => None,
                    inserted => Some(inserted),
                });
                inserted.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            }
            for (node, change) in [
                "UPDATE t SET n = n + 1",
                "UPDATE t SET counts = ARRAY[counts[1] + 1000], y.a = (y).a + 5000, span = shape_span(lower(span), 'infinity') WHERE id % 2 = 0",
                "UPDATE t SET o.y = long WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0; UPDATE t SET long.a = 9",
            ]
            .iter()
            .enumerate()
            {
                let sql = change.replace(" t ", &format!(" {table} "));
                let done = cluster.client(node).batch_execute(&sql);
                done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            }
        }
        assert_converged(&cluster, &TABLES.map(|(table, _)| table));
        if !changed {
            let change = "ALTER TYPE shape_inner DROP ATTRIBUTE b; ALTER TYPE shape_inner ADD ATTRIBUTE d bytea";
            cluster.client(1).batch_execute(change).unwrap();
        }
    }
}
