//! `synod compare`: do the nodes have the same rows after the same commit?

use serde_json::{Map, Value, json};

use crate::arguments::{Common, Compare};
use crate::failure::{Failure, exit};
use crate::frozen::{Freeze, freeze};
use crate::group::{Group, Member};
use crate::output::{grouped, table};
use crate::rows::{self, Comparison, Difference, Table};
use crate::session::Session;

/// A table and what was found.
struct Compared {
    name: String,
    comparison: Comparison,
    /// Why it could not be compared between all nodes.
    problem: Option<String>,
}

/// Compare and tell.
pub fn run(common: &Common, options: &Compare) -> Result<u8, Failure> {
    let group = Group::ask(common, "compare")?;
    let mut frozen = frozen_members(&group, options.pause, None, None)?;
    let names: Vec<String> = frozen.nodes.iter().map(|node| node.name.clone()).collect();
    let mut lists = Vec::new();
    for node in &mut frozen.nodes {
        lists.push(rows::tables(&mut node.reader)?);
    }
    let wanted = wanted(&options.tables, &mut frozen.nodes[0].reader, &lists[0])?;
    let mut found = Vec::new();
    for first in &wanted {
        let mut sessions: Vec<&mut Session> = frozen.nodes.iter_mut().map(|node| &mut node.reader).collect();
        found.push(compared(first, &lists, &names, &mut sessions, options.limit)?);
    }
    let equal = found
        .iter()
        .all(|table| table.comparison.differences.is_empty() && table.problem.is_none());
    if common.json {
        println!("{:#}", as_json(&frozen, &names, &found));
    } else {
        print!("{}", as_text(&frozen, &names, &found));
    }
    Ok(if equal && frozen.absent.is_empty() {
        exit::GOOD
    } else {
        exit::FOUND
    })
}

/// Freeze the group, or those of its members who are named.
pub fn frozen_members(
    group: &Group,
    pause: u32,
    only: Option<[&str; 2]>,
    keep: Option<&str>,
) -> Result<Freeze, Failure> {
    if group.members.is_empty() {
        return Err(Failure::new(
            "this database is not a member of a group",
            "There is nothing to compare it with.",
            "Connect to a member (--dsn).",
        ));
    }
    let wanted = |member: &&Member| only.is_none_or(|only| only.contains(&member.name.as_str()));
    let members: Vec<&Member> = group.members.iter().filter(wanted).collect();
    let frozen = freeze(&members, pause, keep, "compare");
    if frozen.nodes.len() < 2 {
        let (detail, hint) =
            frozen
                .absent
                .first()
                .map_or(("Only one was found.".into(), String::new()), |(name, failure)| {
                    let detail = format!(
                        "Node \"{name}\" cannot take part: {}. {}",
                        failure.message, failure.detail
                    );
                    (detail.trim().to_owned(), failure.hint.clone())
                });
        return Err(Failure::new("two nodes are needed at one CSN", detail, hint));
    }
    Ok(frozen)
}

/// A table and what is below it: partitions, heirs.
const TREE: &str = "\
WITH RECURSIVE tree AS (
    SELECT coalesce(to_regclass($1), to_regclass('public.' || $1))::oid AS oid, 0 AS depth
    UNION ALL SELECT i.inhrelid, tree.depth + 1 FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid)
SELECT oid::regclass::text FROM tree WHERE oid IS NOT NULL GROUP BY oid ORDER BY min(depth), oid::regclass::text";

/// The tables to compare, as the first node has them. Of a partitioned one its partitions, which have the rows; of one with heirs them, too.
fn wanted(names: &[String], session: &mut Session, all: &[Table]) -> Result<Vec<Table>, Failure> {
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let mut found: Vec<Table> = Vec::new();
    for name in names {
        let (named, below) = tree(name, session, all)?;
        for table in named.into_iter().chain(below) {
            if found.iter().all(|known| known.id != table.id) {
                found.push(table);
            }
        }
    }
    Ok(found)
}

/// A replicated table, unless it is partitioned and so has no rows of its own; and the tables below it that have.
pub fn tree(name: &str, session: &mut Session, all: &[Table]) -> Result<(Option<Table>, Vec<Table>), Failure> {
    let rows = session.rows(TREE, &[Some(name)])?;
    let known = |name: &Option<String>| all.iter().find(|table| Some(&table.name) == name.as_ref()).cloned();
    let mut tables = rows.iter().map(|row| row.first().and_then(known));
    let named = tables.next().flatten();
    let below: Vec<Table> = tables.flatten().collect();
    if named.is_none() && below.is_empty() {
        return Err(Failure::new(
            format!("table \"{name}\" is not replicated"),
            format!("{} has no such table with rows in synod.tables.", session.whom),
            "Name it with its schema; see synod.tables.",
        ));
    }
    Ok((named, below))
}

fn compared(
    first: &Table,
    lists: &[Vec<Table>],
    names: &[String],
    sessions: &mut [&mut Session],
    limit: usize,
) -> Result<Compared, Failure> {
    let mut tables = Vec::new();
    let mut problem = None;
    for (name, list) in names.iter().zip(lists) {
        match list.iter().find(|table| table.id == first.id) {
            Some(table) if table.columns != first.columns => {
                problem = Some(format!("its columns are others on node \"{name}\""));
            }
            Some(table) => tables.push(table.clone()),
            None => problem = Some(format!("it is not replicated on node \"{name}\"")),
        }
    }
    Ok(Compared {
        name: first.name.clone(),
        comparison: if problem.is_none() {
            rows::compare(sessions, &tables, limit)?
        } else {
            Comparison::default()
        },
        problem,
    })
}

/// Nodes with equal rows get the same letter.
pub fn letters(difference: &Difference) -> Vec<Option<char>> {
    let mut out = Vec::new();
    let mut kinds: Vec<(i64, String)> = Vec::new();
    for found in &difference.found {
        out.push(found.as_ref().map(|found| {
            let index = kinds.iter().position(|known| known == found).unwrap_or_else(|| {
                kinds.push(found.clone());
                kinds.len() - 1
            });
            char::from(b'a' + u8::try_from(index % 26).unwrap_or(0))
        }));
    }
    out
}

/// The differences of one table, a column per node.
pub fn differences_text(names: &[String], differences: &[Difference]) -> String {
    let mut header = vec!["  KEY"];
    header.extend(names.iter().map(String::as_str));
    let rows = differences.iter().map(|difference| {
        let mut row = vec![format!("  {}", difference.key)];
        row.extend(
            letters(difference)
                .into_iter()
                .map(|letter| letter.map_or("-".into(), |letter| format!("row {letter}"))),
        );
        row
    });
    table(&header, rows.collect(), &[])
}

/// The same for programs: per node a letter, or null when it has no such row.
pub fn difference_json(names: &[String], difference: &Difference) -> Value {
    let nodes: Map<String, Value> = names
        .iter()
        .cloned()
        .zip(letters(difference).into_iter().map(|letter| json!(letter)))
        .collect();
    let key: Value = serde_json::from_str(&difference.key).unwrap_or_else(|_| json!(difference.key));
    json!({ "key": key, "nodes": nodes })
}

fn as_text(frozen: &Freeze, names: &[String], found: &[Compared]) -> String {
    let mut text = format!("{} nodes at CSN {}: {}\n\n", names.len(), frozen.csn, names.join(", "));
    let rows = found.iter().map(|one| {
        let count = one.comparison.rows.iter().max().copied().unwrap_or_default();
        let number = one.comparison.differences.len();
        let result = match (&one.problem, number) {
            (Some(problem), _) => problem.clone(),
            (None, 0) => "equal".into(),
            (None, _) if one.comparison.more => format!("more than {number} rows differ"),
            (None, 1) => "1 row differs".into(),
            (None, _) => format!("{number} rows differ"),
        };
        vec![one.name.clone(), grouped(count), result]
    });
    text += &table(&["TABLE", "ROWS", "RESULT"], rows.collect(), &[1]);
    text += "\n";
    for one in found.iter().filter(|one| !one.comparison.differences.is_empty()) {
        text += &format!("\n{}: equal letters are equal rows, - is none\n", one.name);
        text += &differences_text(names, &one.comparison.differences);
        text += "\n";
    }
    for (name, failure) in &frozen.absent {
        text += &format!(
            "\nPROBLEM:  node \"{name}\" was not compared: {}. {}\n",
            failure.message, failure.detail
        );
    }
    text
}

fn as_json(frozen: &Freeze, names: &[String], found: &[Compared]) -> Value {
    let tables: Vec<Value> = found
        .iter()
        .map(|one| {
            let differences = &one.comparison.differences;
            json!({
                "table": one.name,
                "equal": differences.is_empty() && one.problem.is_none(),
                "rows": one.comparison.rows.iter().max(),
                "problem": one.problem,
                "more": one.comparison.more,
                "differences": differences.iter().map(|difference| difference_json(names, difference)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let absent: Vec<Value> = frozen
        .absent
        .iter()
        .map(|(name, failure)| json!({ "node": name, "reason": failure.message, "detail": failure.detail }))
        .collect();
    json!({ "csn": frozen.csn, "nodes": names, "not_compared": absent, "tables": tables })
}
