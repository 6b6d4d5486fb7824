//! Finding rows that differ between nodes that stand at one CSN.
//!
//! Rows are put into groups by a hash of their key, the same on every node whatever its collations are. A group's checksum
//! is the number of its rows and the sum of their hashes, so the order in which they are read does not matter. Only the
//! rows of groups that differ are looked at singly, and of those only keys and hashes leave their node.

use std::collections::BTreeMap;
use std::thread;

use serde_json::Value;

use crate::failure::Failure;
use crate::session::Session;

/// Rows per group, about.
const GROUP_ROWS: i64 = 256;
/// Groups of a table at most.
const MOST_GROUPS: i64 = 1 << 16;

/// A replicated table as one node has it.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its number in the group.
    pub id: i64,
    /// Its name there, qualified and quoted.
    pub name: String,
    /// Columns by which rows are found again, quoted; all columns when it has no key.
    pub key: Vec<String>,
    /// All columns that are stored, in an order that does not depend on the node.
    pub columns: Vec<String>,
    /// The same as expressions that say all there is in a value, where printing leaves something out or reading checks anew: XML, domains,
    /// what holds others.
    pub forms: Vec<String>,
    /// The same in the order of the table; nothing for one that is not stored.
    pub row: Vec<Option<String>>,
    /// As the planner estimates them.
    pub rows: i64,
}

const TABLES: &str = "\
SELECT coalesce(json_agg(x ORDER BY x.name), '[]') FROM (
    SELECT t.table_id AS id, t.table_name::regclass::text AS name, c.reltuples::int8 AS rows,
           (SELECT json_agg(quote_ident(i) ORDER BY i COLLATE \"C\") FROM unnest(t.identity) AS i) AS key,
           (SELECT json_agg(quote_ident(a.attname) ORDER BY a.attname COLLATE \"C\") FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v') AS columns,
           (SELECT json_agg(CASE WHEN a.atttypid < 16384 AND a.atttypid NOT IN ('xml'::regtype, 'xml[]'::regtype) OR y.typtype = 'e'
                                 THEN quote_ident(a.attname) ELSE format('synod._travelling_form(%I)', a.attname) END
                            ORDER BY a.attname COLLATE \"C\")
              FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v') AS forms,
           (SELECT json_agg(CASE WHEN a.attgenerated <> 'v' THEN quote_ident(a.attname) END ORDER BY a.attnum) FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS row
      FROM synod.tables AS t JOIN pg_class AS c ON c.oid = t.table_name::regclass
     WHERE c.relkind = 'r') AS x";

/// The replicated tables of a node.
pub fn tables(session: &mut Session) -> Result<Vec<Table>, Failure> {
    let found = session.json(TABLES, &[])?;
    Ok(found
        .as_array()
        .map(|tables| tables.iter().map(Table::parse).collect())
        .unwrap_or_default())
}

/// Checksums by group.
pub type Sums = BTreeMap<i64, (i64, String)>;

/// Rows by key: number and sum of hashes. More than one where the table has no key.
pub type Keys = BTreeMap<String, (i64, String)>;

impl Table {
    fn parse(found: &Value) -> Self {
        let names = |value: &Value| -> Vec<String> {
            let names = value.as_array().cloned().unwrap_or_default();
            names
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect()
        };
        let columns = names(&found["columns"]);
        let key = names(&found["key"]);
        Self {
            id: found["id"].as_i64().unwrap_or_default(),
            name: found["name"].as_str().unwrap_or_default().to_owned(),
            key: if key.is_empty() { columns.clone() } else { key },
            row: found["row"]
                .as_array()
                .map(|row| row.iter().map(|name| name.as_str().map(str::to_owned)).collect())
                .unwrap_or_default(),
            forms: names(&found["forms"]),
            rows: found["rows"].as_i64().unwrap_or_default(),
            columns,
        }
    }

    /// A power of two.
    pub fn groups(&self) -> i64 {
        let wanted = (self.rows / GROUP_ROWS).clamp(1, MOST_GROUPS).unsigned_abs();
        i64::try_from(wanted.next_power_of_two()).unwrap_or(1)
    }

    fn group_of(&self, groups: i64) -> String {
        format!(
            "hashtextextended(ROW({})::text, 0) & {}",
            self.key.join(", "),
            groups - 1
        )
    }

    fn hash(&self) -> String {
        format!("hashtextextended(ROW({})::text, 0)::numeric", self.forms.join(", "))
    }

    /// The key as JSON text, for people and to find the row again.
    pub fn key_text(&self) -> String {
        format!(
            "(SELECT row_to_json(q)::text FROM (SELECT {}) AS q)",
            self.key.join(", ")
        )
    }

    /// Checksums of all groups.
    pub fn sums(&self, session: &mut Session, groups: i64) -> Result<Sums, Failure> {
        let sql = format!(
            "SELECT {} AS g, count(*), sum({}) FROM ONLY {} GROUP BY 1",
            self.group_of(groups),
            self.hash(),
            self.name
        );
        let rows = session.rows(&sql, &[])?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let mut cells = row.into_iter().flatten();
                Some((
                    cells.next()?.parse().ok()?,
                    (cells.next()?.parse().ok()?, cells.next()?),
                ))
            })
            .collect())
    }

    /// The rows of some groups.
    pub fn keys(&self, session: &mut Session, groups: i64, wanted: &[i64]) -> Result<Keys, Failure> {
        let sql = format!(
            "SELECT {}, count(*), sum({}) FROM ONLY {} WHERE {} = ANY ($1::int8[]) GROUP BY 1",
            self.key_text(),
            self.hash(),
            self.name,
            self.group_of(groups)
        );
        let rows = session.rows(&sql, &[Some(&array(wanted.iter().map(i64::to_string)))])?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let mut cells = row.into_iter().flatten();
                Some((cells.next()?, (cells.next()?.parse().ok()?, cells.next()?)))
            })
            .collect())
    }
}

/// An array in PostgreSQL's text form.
pub fn array(values: impl Iterator<Item = String>) -> String {
    let quoted = values.map(|value| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// One key whose rows are not the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key as JSON.
    pub key: String,
    /// Per node, in the given order: what it has, or nothing.
    pub found: Vec<Option<(i64, String)>>,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Rows on each node.
    pub rows: Vec<i64>,
    /// Keys that differ, up to the limit.
    pub differences: Vec<Difference>,
    /// There are more.
    pub more: bool,
}

/// Compare a table between sessions; `tables` has it as each of them names it.
pub fn compare(sessions: &mut [&mut Session], tables: &[Table], limit: usize) -> Result<Comparison, Failure> {
    let groups = tables.iter().map(Table::groups).max().unwrap_or(1);
    let sums = each(sessions, tables, |table, session| table.sums(session, groups))?;
    let mut all: Vec<i64> = sums.iter().flat_map(|sums| sums.keys().copied()).collect();
    all.sort_unstable();
    all.dedup();
    let differ: Vec<i64> = all
        .into_iter()
        .filter(|group| sums.iter().any(|of_node| of_node.get(group) != sums[0].get(group)))
        .collect();
    let mut comparison = Comparison {
        rows: sums
            .iter()
            .map(|sums| sums.values().map(|(rows, _)| rows).sum())
            .collect(),
        ..Comparison::default()
    };
    // So many groups at a time that a table that differs everywhere does not come here whole.
    for some in differ.chunks(64) {
        let keys = each(sessions, tables, |table, session| table.keys(session, groups, some))?;
        comparison.differences.extend(differences(&keys));
        if comparison.differences.len() > limit {
            comparison.more = true;
            comparison.differences.truncate(limit);
            break;
        }
    }
    Ok(comparison)
}

fn differences(keys: &[Keys]) -> Vec<Difference> {
    let mut all: Vec<&String> = keys.iter().flat_map(BTreeMap::keys).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
        .map(|key| Difference {
            key: key.clone(),
            found: keys.iter().map(|of_node| of_node.get(key).cloned()).collect(),
        })
        .filter(|difference| difference.found.iter().any(|found| *found != difference.found[0]))
        .collect()
}

/// The same work on every node at once.
fn each<R: Send>(
    sessions: &mut [&mut Session],
    tables: &[Table],
    work: impl Fn(&Table, &mut Session) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Failure> {
    thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .iter_mut()
            .zip(tables)
            .map(|(session, table)| {
                let work = &work;
                scope.spawn(move || work(table, session))
            })
            .collect();
        let lost = || Err(Failure::new("a node could not be asked", "", ""));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| lost()))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(rows: &[(&str, i64)]) -> Keys {
        rows.iter()
            .map(|(key, hash)| ((*key).to_owned(), (1, hash.to_string())))
            .collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        let found = differences(&[
            keys(&[("a", 1), ("b", 2)]),
            keys(&[("a", 1), ("b", 3)]),
            keys(&[("a", 1), ("c", 9)]),
        ]);
        let told: Vec<&str> = found.iter().map(|difference| difference.key.as_str()).collect();
        assert_eq!(told, ["b", "c"]);
        assert_eq!(found[1].found, [None, None, Some((1, "9".into()))]);
    }

    #[test]
    fn arrays_are_quoted() {
        assert_eq!(
            array([r#"{"a":"\"x\\"}"#.to_owned()].into_iter()),
            r#"{"{\"a\":\"\\\"x\\\\\"}"}"#
        );
    }
}
