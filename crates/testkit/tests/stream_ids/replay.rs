//! What comes of the events, by the events alone.

use postgres::Client;

use crate::reader::{Cell, What};

/// Do to a table's rows what an event says. Rows are found by their first column, or by all of them if events have `whole` old rows.
pub fn replay(rows: &mut Vec<Vec<Cell>>, what: &What, whole: bool) {
    match what {
        What::Insert(new) => {
            assert!(!new.contains(&Cell::Same), "a new row is told whole: {new:?}");
            rows.push(new.clone());
        }
        What::Update(old, new) => {
            assert_eq!(old.is_some(), whole, "the old row is told if all of it is the identity");
            let at = find(rows, old.as_ref().unwrap_or(new), whole);
            for (cell, told) in rows[at].iter_mut().zip(new) {
                if *told != Cell::Same {
                    cell.clone_from(told);
                }
            }
        }
        What::Delete(old) => {
            let old = old.as_ref().expect("the identity of a row that is gone is told");
            let at = find(rows, old, whole);
            rows.remove(at);
        }
        What::Truncate => rows.clear(),
    }
}

#[track_caller]
fn find(rows: &[Vec<Cell>], key: &[Cell], whole: bool) -> usize {
    let is_it = |row: &Vec<Cell>| if whole { row == key } else { row[0] == key[0] };
    rows.iter()
        .position(is_it)
        .unwrap_or_else(|| panic!("there is no row {key:?} to change"))
}

/// The rows of a table.
pub fn content(client: &mut Client, table: &str) -> Vec<Vec<Cell>> {
    let simple = client
        .simple_query(&format!("SET synod.read_consistency = strong; SELECT * FROM {table}"))
        .unwrap();
    let rows = simple.into_iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        (0..row.len())
            .map(|at| row.get(at).map_or(Cell::Null, |text| Cell::Text(text.to_owned())))
            .collect()
    })
    .collect()
}
