//! The initial snapshot: every row of the tables as of the making of the slot, told as inserts.
//!
//! The slot is temporary while the rows are read, and is made to last when they have been delivered. So a slot that is there says
//! that its snapshot is finished; a crash before leaves none, and the next run begins anew. Where the sink has transactions, all rows
//! and the position are one of them, which commits after the slot has been made to last: a slot whose sink knows nothing yet is made
//! anew, too.

mod hold;

use sha2::{Digest as _, Sha256};
use synod_change::stream::filters::Mask;
use synod_change::stream::{Change, Column, Event, EventId, Place, ReplicaIdentity, Table, Transaction, TypeClass};
use synod_change::{Row, Value};

use super::envelope::SNAPSHOT;
use super::lsn;
use super::sink::Told;
use super::slots::Filters;
use super::source::{Made, literal};
use crate::failure::Failure;
use crate::session::Session;

pub use hold::hold;

/// One FETCH gives about so many bytes.
const FETCH_BYTES: usize = 1 << 20;
/// And no more rows than this.
const FETCH_ROWS: usize = 10_000;

/// $1: rows of partitions are told as rows of their root.
const TABLES: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relreplident, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE CASE WHEN $1::boolean THEN c.relkind IN ('r', 'p') AND NOT c.relispartition ELSE c.relkind = 'r' END
   AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'synod', 'synod_stream')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                   AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname";

/// $1: a table's oid. Partitions and parents of it.
const RELATIVES: &str = "\
SELECT n.nspname, c.relname
  FROM (SELECT relid FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.oid)
        UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid)) AS r
  JOIN pg_catalog.pg_class AS c ON c.oid = r.relid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid <> $1::pg_catalog.oid";

/// Which table refers to which.
const REFERENCES: &str = "\
SELECT conrelid, confrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid <> confrelid";

/// $1: the table's oid. As the stream tells them: key columns without what an index only includes, no virtual ones.
const COLUMNS: &str = "\
SELECT a.attname, pg_catalog.format_type(a.atttypid, NULL), pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid,
       a.atttypmod, a.attnum, a.attnotnull, a.attgenerated, a.attidentity, coalesce(a.attnum = ANY ((p.indkey::int2[])[0:p.indnkeyatts - 1]), false),
       coalesce(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false), pg_catalog.quote_ident(a.attname),
       pg_catalog.format_type(b.type, NULL), pg_catalog.format_type(b.type, b.modifier)
  FROM pg_catalog.pg_attribute AS a
 CROSS JOIN LATERAL (
       WITH RECURSIVE made_of AS (
            SELECT a.atttypid AS type, a.atttypmod AS modifier
             UNION ALL
            SELECT t.typbasetype, t.typtypmod FROM made_of AS m JOIN pg_catalog.pg_type AS t ON t.oid = m.type WHERE t.typtype = 'd')
       SELECT m.type, m.modifier FROM made_of AS m JOIN pg_catalog.pg_type AS t ON t.oid = m.type WHERE t.typtype <> 'd') AS b
  LEFT JOIN pg_catalog.pg_index AS p ON p.indrelid = a.attrelid AND p.indisprimary
  LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = a.attrelid AND i.indisreplident
 WHERE a.attrelid = $1::pg_catalog.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v' ORDER BY a.attnum";

/// A session that sees the snapshot.
pub fn enter(session: &mut Session, made: &Made) -> Result<(), Failure> {
    session.execute(&format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        literal(made.snapshot.as_deref().unwrap_or_default())
    ))
}

/// A table, and how its rows are asked for.
pub struct Read {
    table: Table,
    select: String,
    /// By column.
    masks: Vec<Option<Mask>>,
}

/// As the stream itself: rather than what was to be kept back nothing is told.
fn keep_secrets(
    session: &mut Session,
    filters: &Filters,
    oid: &str,
    (schema, name): (&[u8], &[u8]),
    columns: &[Column],
) -> Result<(), Failure> {
    let hint = "Name tables as they are told: partitions by their own names, or with publish-via-root by their root's.";
    let table = String::from_utf8_lossy(name);
    let names: Vec<&[u8]> = columns.iter().map(|column| column.name.as_slice()).collect();
    if let Some((option, missing)) = filters.wanted.missing_column(schema, name, &names) {
        let missing = String::from_utf8_lossy(&missing);
        return Err(Failure::new(
            format!("option \"{option}\" names column \"{missing}\", which table \"{table}\" does not have"),
            "Its values may be in a column of another name, and nothing is told rather than that.",
            "Correct mask-columns or exclude-columns.",
        ));
    }
    for row in session.rows(RELATIVES, &[Some(oid)])? {
        let field = |index: usize| row.get(index).cloned().flatten().unwrap_or_default().into_bytes();
        if let Some(option) = filters.wanted.bypassed((&field(0), &field(1)), (schema, name)) {
            let other = String::from_utf8_lossy(&field(1)).into_owned();
            return Err(Failure::new(
                format!("option \"{option}\" names table \"{other}\", whose rows are told as those of \"{table}\""),
                "It would say nothing of them.",
                hint,
            ));
        }
    }
    Ok(())
}

/// The tables that are wanted.
pub fn tables(session: &mut Session, filters: &Filters) -> Result<Vec<Read>, Failure> {
    let mut found = Vec::new();
    let via_root = if filters.via_root { "t" } else { "f" };
    for (index, row) in session.rows(TABLES, &[Some(via_root)])?.into_iter().enumerate() {
        let field = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        let (schema, name) = (field(1).into_bytes(), field(2).into_bytes());
        if !filters.wanted.wants_table(&schema, &name) {
            continue;
        }
        let identity = match field(3).as_str() {
            "i" => ReplicaIdentity::Index,
            "f" => ReplicaIdentity::Full,
            "n" => ReplicaIdentity::Nothing,
            _ => ReplicaIdentity::Default,
        };
        let mut columns = columns(session, &field(0), identity)?;
        keep_secrets(session, filters, &field(0), (&schema, &name), &columns)?;
        columns.retain(|column| filters.wanted.wants_column(&schema, &name, &column.name));
        let masks = columns
            .iter()
            .map(|column| filters.wanted.mask(&schema, &name, &column.name).cloned());
        let masks: Vec<Option<Mask>> = masks.collect();
        for (column, mask) in columns.iter_mut().zip(&masks) {
            if mask.is_some() {
                (column.masked, column.class) = (true, TypeClass::Text);
            }
        }
        let partitioned = field(5) == "p";
        let select = select(
            &columns,
            &field(4),
            partitioned,
            filters.wanted.row_filter(&schema, &name),
        );
        let table = Table {
            version: index as u64 + 1,
            oid: field(0).parse().unwrap_or_default(),
            schema,
            name,
            quoted_name: field(4).into_bytes(),
            columns,
            identity,
            partitioned,
            ..Table::default()
        };
        found.push(Read { table, select, masks });
    }
    let references: Vec<(u32, u32)> = session
        .rows(REFERENCES, &[])?
        .iter()
        .filter_map(|row| {
            Some((
                row.first()?.as_ref()?.parse().ok()?,
                row.get(1)?.as_ref()?.parse().ok()?,
            ))
        })
        .collect();
    Ok(referenced_first(found, &references))
}

fn select(columns: &[Column], name: &str, partitioned: bool, condition: Option<&[u8]>) -> String {
    let names: Vec<_> = columns
        .iter()
        .map(|column| String::from_utf8_lossy(&column.quoted_name))
        .collect();
    let only = if partitioned { "" } else { "ONLY " };
    let mut sql = format!("SELECT {} FROM {only}{name}", names.join(", "));
    if let Some(condition) = condition {
        sql.push_str(&format!(" WHERE ({})", String::from_utf8_lossy(condition)));
    }
    sql
}

/// Tables after those that they refer to, as far as they do not refer to each other in a circle.
fn referenced_first(mut tables: Vec<Read>, references: &[(u32, u32)]) -> Vec<Read> {
    let mut ordered = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let waits = |table: &Table| {
            references
                .iter()
                .any(|(from, to)| *from == table.oid && tables.iter().any(|other| other.table.oid == *to))
        };
        let next = tables.iter().position(|read| !waits(&read.table)).unwrap_or_default();
        ordered.push(tables.remove(next));
    }
    ordered
}

fn columns(session: &mut Session, oid: &str, identity: ReplicaIdentity) -> Result<Vec<Column>, Failure> {
    let rows = session.rows(COLUMNS, &[Some(oid)])?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let field = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
            let is = |index: usize| field(index) == "t";
            let in_primary_key = is(9);
            Column {
                name: field(0).into_bytes(),
                quoted_name: field(11).into_bytes(),
                class: class(field(3).parse().unwrap_or_default()),
                type_name: field(1).into_bytes(),
                base_type_name: field(12).into_bytes(),
                full_type_name: field(2).into_bytes(),
                full_base_type_name: field(13).into_bytes(),
                type_oid: field(3).parse().unwrap_or_default(),
                type_modifier: field(4).parse().unwrap_or(-1),
                number: field(5).parse().unwrap_or_default(),
                not_null: is(6),
                generated: !field(7).is_empty(),
                identity: field(8).chars().next(),
                in_primary_key,
                in_identity: match identity {
                    ReplicaIdentity::Default => in_primary_key,
                    ReplicaIdentity::Index => is(10),
                    ReplicaIdentity::Full => true,
                    ReplicaIdentity::Nothing => false,
                },
                ..Column::default()
            }
        })
        .collect())
}

/// By the oid of the type (`pg_type.dat`), as the output plugin does: the name of a type depends on settings.
fn class(type_oid: u32) -> TypeClass {
    match type_oid {
        20 | 21 | 23 | 26 => TypeClass::Integer,
        700 | 701 | 1_700 => TypeClass::Number,
        16 => TypeClass::Boolean,
        1_560 | 1_562 => TypeClass::Bits,
        114 | 3_802 => TypeClass::Json,
        17 => TypeClass::Bytes,
        _ => TypeClass::Text,
    }
}

/// Tell every row of a table. `ordinal` counts the rows of the whole snapshot.
pub fn rows<E: From<Failure>>(
    session: &mut Session,
    Read { table, select, masks }: &Read,
    transaction: &Transaction<'_>,
    salt: &[u8],
    made: &Made,
    ordinal: &mut u64,
    tell: &mut dyn FnMut(&Told<'_>) -> Result<(), E>,
) -> Result<(), E> {
    session.execute(&format!("DECLARE synod_rows NO SCROLL CURSOR FOR {select}"))?;
    let mut count = 1;
    loop {
        let rows = session.query(&format!("FETCH {count} FROM synod_rows"))?;
        let (got, mut bytes) = (rows.len(), 0);
        for row in rows {
            *ordinal += 1;
            bytes += row.iter().flatten().map(|text| text.len() + 24).sum::<usize>();
            let shown: Vec<Option<Vec<u8>>> = row
                .into_iter()
                .zip(masks)
                .map(|(value, mask)| mask_value(value, mask.as_ref(), salt))
                .collect();
            let values: Vec<Value<'_>> = shown
                .iter()
                .map(|value| value.as_ref().map_or(Value::Null, |text| Value::Text(text)))
                .collect();
            let place = Place {
                id: EventId::Commit {
                    lsn: made.consistent,
                    ordinal: *ordinal,
                },
                lsn: made.consistent,
                xid: 0,
            };
            let event = Event::Row(
                place,
                Change::Insert {
                    table,
                    new: Row::new(&values),
                },
            );
            let id = format!("{SNAPSHOT}{}/{ordinal}", lsn::text(made.consistent));
            tell(&Told {
                transaction,
                id: &id,
                lsn: made.consistent,
                snapshot: true,
                event: &event,
            })?;
        }
        if got < count {
            break;
        }
        // As many rows as make about one megabyte, going by those just seen.
        count = (FETCH_BYTES / (bytes / got.max(1)).max(1))
            .clamp(1, FETCH_ROWS)
            .min(count * 8);
    }
    session.execute("CLOSE synod_rows")?;
    Ok(())
}

/// What is told of a value; NULL stays NULL.
fn mask_value(value: Option<String>, mask: Option<&Mask>, salt: &[u8]) -> Option<Vec<u8>> {
    let text = value?.into_bytes();
    match mask {
        None => Some(text),
        Some(Mask::Null) => None,
        Some(Mask::Text(shown)) => Some(shown.clone()),
        Some(Mask::Hash) => {
            let hash = Sha256::new().chain_update(salt).chain_update(&text).finalize();
            Some(
                hash.iter()
                    .flat_map(|byte| format!("{byte:02x}").into_bytes())
                    .collect(),
            )
        }
    }
}
