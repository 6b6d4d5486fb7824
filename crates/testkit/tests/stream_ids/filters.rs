//! The id of an event does not depend on what else its reader asked for.

use synod_testkit::assert_converged;

use super::reader::{make_slot, read_with};
use super::{CLUSTER, drop_slots, make_slots};

/// What readers ask for: each is told some of what one who asks for everything is told.
const ASKED: [&str; 6] = [
    ", 'include-tables', 'public.emptied_a, public.emptied_c'",
    ", 'exclude-tables', 'public.emptied_a'",
    ", 'operations', 'truncate'",
    ", 'operations', 'insert, update'",
    ", 'row-filter', 'public.emptied_b WHERE (id > 5)'",
    ", 'exclude-columns', 'public.emptied_c(v)'",
];

/// A table that was emptied behind one that the reader did not want was called by the number of that one.
#[test]
fn the_id_of_a_change_does_not_depend_on_what_a_reader_asked_for() {
    let cluster = CLUSTER.lease();
    for table in ["emptied_a", "emptied_b", "emptied_c"] {
        cluster.create_table(table, &format!("CREATE TABLE {table} (id int PRIMARY KEY, v text)"));
    }
    make_slots(&cluster, "asked");
    let mut client = cluster.client(0);
    let slots: Vec<String> = (0..ASKED.len()).map(|number| format!("asked_{number}")).collect();
    slots.iter().for_each(|slot| make_slot(&mut client, slot));
    client
        .batch_execute(
            "INSERT INTO emptied_a VALUES (1); INSERT INTO emptied_b VALUES (1); INSERT INTO emptied_c VALUES (1);
             BEGIN; TRUNCATE emptied_a, emptied_b, emptied_c;
             INSERT INTO emptied_a VALUES (2); INSERT INTO emptied_b VALUES (2), (7); INSERT INTO emptied_c VALUES (2, 'c'); COMMIT;
             UPDATE emptied_b SET id = id + 10; UPDATE emptied_c SET v = 'd'",
        )
        .unwrap();
    assert_converged(&cluster, &["emptied_a", "emptied_b", "emptied_c"]);
    let identity = |reading: &super::Reading| {
        let told = reading.told.iter();
        told.map(|told| (told.csn, told.ordinal, told.table.clone()))
            .collect::<Vec<_>>()
    };
    let all = identity(&read_with(&mut client, "asked", "").unwrap());
    let emptied = all.windows(3).filter(|three| {
        let tables: Vec<&str> = three.iter().map(|(_, _, table)| table.as_str()).collect();
        let ordinals = three.iter().map(|(_, ordinal, _)| *ordinal);
        tables == ["emptied_a", "emptied_b", "emptied_c"] && ordinals.eq(1..=3)
    });
    assert_eq!(emptied.count(), 1, "{all:?}");
    for (slot, asked) in slots.iter().zip(ASKED) {
        let some = identity(&read_with(&mut client, slot, asked).unwrap());
        assert!(
            !some.is_empty() && (asked.contains("columns") || some.len() < all.len()),
            "{asked}"
        );
        for told in some {
            assert!(all.contains(&told), "{asked}: {told:?} is not one of {all:?}");
        }
        client.execute("SELECT pg_drop_replication_slot($1)", &[slot]).unwrap();
    }
    drop_slots(&cluster, "asked");
}
