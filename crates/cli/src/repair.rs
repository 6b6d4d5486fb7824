//! `synod repair`: the rows of a table on one node become those of another, at one CSN.
//!
//! The node stays held at the CSN until the repair is committed, so neither apply nor anybody's commit moves under it. Its
//! rows are checked against the other node's once more before COMMIT; whatever goes wrong before that changes nothing.

use serde_json::{Value, json};

use crate::arguments::{Common, Repair};
use crate::compare::{difference_json, differences_text, frozen_members, tree};
use crate::failure::{Failure, exit};
use crate::frozen::Frozen;
use crate::group::Group;
use crate::rows::{self, Difference, Sums, Table, array};
use crate::session::{Row, Session};

/// Keys looked up with one statement.
const KEYS_AT_ONCE: usize = 1_000;
/// How long a row that somebody has locked is waited for.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '3s'";

/// What the repair does to one node.
#[derive(Default)]
struct Plan {
    /// Rows that go: where they lie, and what they are.
    remove: Vec<Row>,
    /// Rows that come: how they are shown, then the same values in the form in which they travel.
    put: Vec<Row>,
}

/// Do it.
pub fn run(common: &Common, options: &Repair) -> Result<u8, Failure> {
    if !options.yes && !options.dry_run {
        return Err(Failure::new(
            "a repair writes to one node past the shared log",
            "Rows that only that node has are lost, and its commits wait meanwhile.",
            "Look at it with --dry-run first, then give --yes. See synod repair --help.",
        ));
    }
    if options.node == options.from {
        return Err(Failure::new(
            "a node cannot be repaired from itself",
            "",
            "Give another node with --from.",
        ));
    }
    let group = Group::ask(common, "repair")?;
    for name in [&options.node, &options.from] {
        if !group.members.iter().any(|member| member.name == **name) {
            return Err(Failure::new(
                format!("node \"{name}\" does not exist"),
                format!("Group \"{}\" has no node of this name.", group.name),
                "See synod status.",
            ));
        }
    }
    let keep = Some(options.node.as_str());
    let mut frozen = frozen_members(&group, options.pause, Some([&options.node, &options.from]), keep)?;
    let csn = frozen.csn;
    let place = |frozen: &[Frozen], name: &str| frozen.iter().position(|node| node.name == name).unwrap_or_default();
    let mut from = frozen.nodes.remove(place(&frozen.nodes, &options.from));
    let mut node = frozen.nodes.remove(place(&frozen.nodes, &options.node));
    let tables = tables(&mut from.reader, &mut node.reader, &options.table)?;
    let found = rows::compare(&mut [&mut from.reader, &mut node.reader], &tables, usize::MAX)?;
    let plan = plan(&mut from.reader, &mut node.control, &tables, &found.differences)?;
    if options.yes && !found.differences.is_empty() {
        mend(&mut from.reader, &mut node.control, &tables, csn, &plan)?;
    }
    tell(common, options, csn, &tables[1], &found.differences, &plan);
    Ok(if options.dry_run && !found.differences.is_empty() {
        exit::FOUND
    } else {
        exit::GOOD
    })
}

/// The table as the two nodes have it.
fn tables(from: &mut Session, node: &mut Session, name: &str) -> Result<[Table; 2], Failure> {
    let (there, here) = (rows::tables(from)?, rows::tables(node)?);
    let right = one(tree(name, from, &there)?, name)?;
    let wrong = here
        .into_iter()
        .find(|table| table.id == right.id && table.columns == right.columns);
    wrong.map(|wrong| [right, wrong]).ok_or_else(|| {
        Failure::new(
            format!("table \"{name}\" is not the same table on both nodes"),
            "It is not replicated on one of them, or its columns are others.",
            "Rows can be repaired, definitions cannot: let the node leave and join again.",
        )
    })
}

/// The one table to repair: heirs and partitions are repaired each by itself.
fn one((named, mut below): (Option<Table>, Vec<Table>), name: &str) -> Result<Table, Failure> {
    if let Some(table) = named {
        return Ok(table);
    }
    if below.len() == 1 {
        return Ok(below.remove(0));
    }
    let partitions: Vec<&str> = below.iter().map(|table| &*table.name).collect();
    Err(Failure::new(
        format!("table \"{name}\" is partitioned"),
        format!("Its rows are in {}.", partitions.join(", ")),
        "Repair the partitions that differ, each by itself; synod compare says which.",
    ))
}

fn plan(from: &mut Session, node: &mut Session, tables: &[Table; 2], found: &[Difference]) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    for some in found.chunks(KEYS_AT_ONCE) {
        let keys = array(some.iter().map(|difference| difference.key.clone()));
        let [right, wrong] = tables.each_ref();
        plan.put
            .extend(fetch(from, right, &[&right.columns, &right.forms], &keys)?);
        plan.remove
            .extend(fetch(node, wrong, &[&["ctid".to_owned()], &wrong.columns], &keys)?);
    }
    Ok(plan)
}

fn fetch(session: &mut Session, table: &Table, wanted: &[&[String]; 2], keys: &str) -> Result<Vec<Row>, Failure> {
    let sql = format!(
        "SELECT {} FROM ONLY {} WHERE {} = ANY ($1::text[])",
        wanted.concat().join(", "),
        table.name,
        table.key_text()
    );
    session.rows(&sql, &[Some(keys)])
}

fn mend(from: &mut Session, node: &mut Session, tables: &[Table; 2], csn: i64, plan: &Plan) -> Result<(), Failure> {
    let [right, wrong] = tables;
    node.execute(LOCK_TIMEOUT)?;
    let sql = "SELECT synod._begin_repair($1::regclass, $2)";
    node.rows(sql, &[Some(&wrong.name), Some(&csn.to_string())])?;
    for some in plan.remove.chunks(KEYS_AT_ONCE) {
        let places = array(some.iter().filter_map(|row| row.first().cloned().flatten()));
        let sql = format!(
            "DELETE FROM ONLY {} WHERE ctid = ANY ($1::tid[]) RETURNING 1",
            wrong.name
        );
        if node.rows(&sql, &[Some(&places)])?.len() != some.len() {
            return Err(moved());
        }
    }
    let sql = put(wrong);
    for row in &plan.put {
        let forms = row.iter().skip(wrong.columns.len());
        let cells: Vec<Option<&str>> = forms.map(Option::as_deref).collect();
        node.rows(&sql, &cells)?;
    }
    let groups = right.groups().max(wrong.groups());
    let (good, mended): (Sums, Sums) = (right.sums(from, groups)?, wrong.sums(node, groups)?);
    if good != mended {
        return Err(moved());
    }
    node.execute("COMMIT")
}

/// Writes a row whose values are the parameters, in the order of `forms`. Not an INSERT: that would compute generated columns
/// anew, and make checks that the row may not pass here and now.
fn put(table: &Table) -> String {
    let of_column = |name: &String| {
        let at = table.columns.iter().position(|column| column == name)?;
        let parameter = at + 1;
        Some(if table.forms[at] == *name {
            format!("${parameter}")
        } else {
            let kind = format!("(NULL::{}).{name}", table.name);
            format!("synod._of_travelling_form(${parameter}::bytea, {kind})")
        })
    };
    let values: Vec<String> = table
        .row
        .iter()
        .map(|name| name.as_ref().and_then(of_column).unwrap_or_else(|| "NULL".into()))
        .collect();
    format!("SELECT synod._put_row(ROW({})::{})", values.join(", "), table.name)
}

fn moved() -> Failure {
    Failure::new(
        "the table did not become equal, and nothing was changed",
        "A trigger that fires always, or a session that writes past the log, changed rows meanwhile.",
        "Look for it, then try again.",
    )
}

fn tell(common: &Common, options: &Repair, csn: i64, table: &Table, found: &[Difference], plan: &Plan) {
    let names = [options.from.clone(), options.node.clone()];
    if common.json {
        let rows = |rows: &[Row], skip: usize| -> Vec<Value> {
            rows.iter()
                .map(|row| json!(row.iter().skip(skip).take(table.columns.len()).collect::<Vec<_>>()))
                .collect()
        };
        let told = json!({
            "csn": csn,
            "table": table.name,
            "node": options.node,
            "from": options.from,
            "done": options.yes,
            "differences": found.iter().map(|difference| difference_json(&names, difference)).collect::<Vec<_>>(),
            "columns": table.columns,
            "removed": rows(&plan.remove, 1),
            "put": rows(&plan.put, 0),
        });
        println!("{told:#}");
        return;
    }
    println!(
        "{} of node \"{}\" against node \"{}\" at CSN {csn}",
        table.name, options.node, options.from
    );
    if found.is_empty() {
        println!("equal: nothing to repair");
        return;
    }
    println!("\n{}\n", differences_text(&names, found));
    let verb = if options.yes { "were" } else { "would be" };
    println!(
        "{} rows {verb} removed from node \"{}\", {} put there",
        plan.remove.len(),
        options.node,
        plan.put.len()
    );
    for (word, rows, skip) in [("removed", &plan.remove, 1), ("put", &plan.put, 0)] {
        for row in rows {
            let cells: Vec<&str> = row
                .iter()
                .skip(skip)
                .take(table.columns.len())
                .map(|cell| cell.as_deref().unwrap_or("\\N"))
                .collect();
            println!("  {word}: {}", cells.join("\t"));
        }
    }
}
