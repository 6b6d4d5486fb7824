//! Tables as decoding sees them, read once per definition: names, types, what identifies a row, and how each column's value
//! becomes text.
//!
//! Rows are decoded with the catalog as it was when they were written; a change of definition between two rows of a table
//! invalidates its shape ([`super::invalidation`]).

use std::cell::OnceCell;
use std::ffi::{CStr, c_char};

use pg_sys::pg_enc::{PG_SQL_ASCII, PG_UTF8};
use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::stream::filters::Mask;
use synod_change::stream::{Column, ReplicaIdentity, Table, TypeClass};

use super::message_row::MessageRows;
use super::row_filter::RowFilter;
use super::strong::Standing;
use super::values::Output;
use crate::decode::Options;
use crate::errors::UserError;
use crate::pg::relcache::Relation;
use crate::pg::{compat, encoding, hierarchy, wire};

/// A table, and how its rows are read.
pub struct Shape {
    /// Whether its own changes are told.
    pub standing: Standing,
    /// What formats see of it.
    pub table: Table,
    /// The reader wants it. If not, nothing else is filled in.
    pub wanted: bool,
    /// A partition that is told as the table above it.
    pub via_root: bool,
    /// How each of [`Table::columns`] is read.
    pub sources: Vec<Source>,
    /// Some are masked.
    pub masked: bool,
    /// Goes before what is hashed.
    pub salt: Vec<u8>,
    /// Text is converted.
    pub to_utf8: bool,
    /// Text does not depend on the session's settings.
    pub exact_text: bool,
    /// The condition on its rows.
    pub row_filter: Option<RowFilter>,
    /// Hashes of its types' catalog cache entries, which name them when they change.
    pub type_hashes: Vec<u32>,
    /// How its rows stand in messages, once one has come.
    message_rows: OnceCell<MessageRows>,
    /// State of its types' functions and of the filter.
    context: pg_sys::MemoryContext,
}

/// Where a column's value is, and how it is told.
pub struct Source {
    /// Attribute number - 1, in the relation that has the rows.
    pub index: usize,
    /// How.
    pub output: Output,
    /// What is told instead.
    pub mask: Option<Mask>,
}

impl Drop for Shape {
    fn drop(&mut self) {
        // SAFETY: a child of TopMemoryContext and ours alone.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}

/// Read the shape of the relation `rows` for a reader.
///
/// # Safety
/// In a callback that was passed `rows`, with the historic catalog.
pub unsafe fn load(rows: pg_sys::Relation, version: u64, options: &Options) -> Result<Shape, UserError> {
    // SAFETY: by contract; the context is deleted with the shape.
    unsafe {
        let root = if options.publish_via_root { root(rows) } else { None };
        let told = root.as_ref().map_or(rows, Relation::raw);
        let (schema, name) = names(told);
        let in_utf8 = options.format.wants_utf8();
        let only = options.only_relations.as_deref();
        let listed = only.is_none_or(|only| only.contains(&(*told).rd_id.to_u32()));
        let above = only
            .filter(|_| !listed)
            .and_then(|only| listed_above(told, only, in_utf8));
        let wanted = (listed || above.is_some())
            && options.filters.wants_table(&schema, &name)
            && !(is_derived(told) && matches!(options.format_name.as_str(), "sql" | "binary"));
        let mut shape = Shape {
            standing: Standing::of(rows, &schema),
            table: Table {
                version,
                oid: (*told).rd_id.to_u32(),
                quoted_name: text([quoted(&schema), quoted(&name)].join(&b'.'), in_utf8),
                partitioned: (*(*told).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE,
                above,
                ..Table::default()
            },
            wanted,
            via_root: root.is_some(),
            sources: Vec::new(),
            masked: false,
            salt: options.filters.salt.clone(),
            to_utf8: in_utf8 && !matches!(pg_sys::GetDatabaseEncoding() as u32, PG_UTF8 | PG_SQL_ASCII),
            exact_text: options.format.wants_exact_text(),
            row_filter: None,
            type_hashes: Vec::new(),
            message_rows: OnceCell::new(),
            context: pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"synod decoded table".as_ptr(),
                0,
                1024,
                8 * 1024 * 1024,
            ),
        };
        if !wanted {
            return Ok(shape);
        }
        if let Some((option, other)) = bypassed(rows, told, (&schema, &name), options) {
            return Err(told_as_another(option, &other, &shape.table.quoted_name));
        }
        let keys = Keys::of(rows);
        shape.table.identity = keys.identity;
        shape.add_columns(rows, told, &schema, &name, &keys, options)?;
        if let Some(condition) = options.filters.row_filter(&schema, &name) {
            let filter = RowFilter::new(condition, rows, shape.context, |attribute| keys.has(attribute));
            shape.row_filter = Some(filter.map_err(|error| error.of_table(&shape.table.quoted_name))?);
        }
        shape.table.schema = text(schema, in_utf8);
        shape.table.name = text(name, in_utf8);
        Ok(shape)
    }
}

impl Shape {
    /// How the rows of `rows` stand in messages.
    ///
    /// # Safety
    /// In a callback, with the catalog of the rows; the shape is that of this relation.
    pub unsafe fn message_rows(&self, rows: &Relation) -> &MessageRows {
        // SAFETY: by contract; the context goes with the shape.
        self.message_rows
            .get_or_init(|| unsafe { MessageRows::new(rows, self.context) })
    }

    unsafe fn add_columns(
        &mut self,
        rows: pg_sys::Relation,
        told: pg_sys::Relation,
        schema: &[u8],
        name: &[u8],
        keys: &Keys,
        options: &Options,
    ) -> Result<(), UserError> {
        // SAFETY: in a callback, with open relations.
        unsafe {
            let attributes = live(told);
            let columns: Vec<&[u8]> = attributes.iter().map(|(_, name, _)| name.as_slice()).collect();
            if let Some((option, missing)) = options.filters.missing_column(schema, name, &columns) {
                return Err(missing_column(option, &self.table.quoted_name, &missing, &columns));
            }
            let places = live(rows);
            for (attribute, column, default) in &attributes {
                let place = places.iter().find(|(_, name, _)| name == column);
                let Some((place, _, _)) = place else { continue };
                // No row has it. Only `test_decoding` says that it is NULL.
                if compat::is_virtual(place) && options.format_name != "text" {
                    continue;
                }
                let masked = options.filters.mask(schema, name, column).is_some();
                let wanted = options.filters.wants_column(schema, name, column);
                self.table.identity_hidden |= keys.has(place.attnum) && (masked || !wanted);
                if !wanted {
                    continue;
                }
                let mask = options.filters.mask(schema, name, column).cloned();
                let default = default.filter(|_| options.format.wants_defaults() && attribute.attgenerated == 0);
                let default = default.and_then(|default| expression(default, told, name));
                let index = place.attnum as usize - 1;
                self.add(attribute, index, place.attnum, keys, mask, default, options);
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one call, of the loop above")]
    unsafe fn add(
        &mut self,
        attribute: &pg_sys::FormData_pg_attribute,
        index: usize,
        number: i16,
        keys: &Keys,
        mask: Option<Mask>,
        default: Option<Vec<u8>>,
        options: &Options,
    ) {
        let type_oid = attribute.atttypid;
        let in_utf8 = options.format.wants_utf8();
        let mut base_modifier = attribute.atttypmod;
        // SAFETY: inside a transaction; the type of a column exists in the catalog that it is read with.
        unsafe {
            let base = pg_sys::getBaseTypeAndTypmod(type_oid, &mut base_modifier);
            let typed = |name: *mut c_char| text(bytes(name), in_utf8);
            let name = bytes(attribute.attname.data.as_ptr());
            self.table.columns.push(Column {
                quoted_name: text(quoted(&name), in_utf8),
                name: text(name, in_utf8),
                type_name: typed(pg_sys::format_type_be(type_oid)),
                full_type_name: typed(pg_sys::format_type_with_typemod(type_oid, attribute.atttypmod)),
                base_type_name: typed(pg_sys::format_type_be(base)),
                full_base_type_name: typed(pg_sys::format_type_with_typemod(base, base_modifier)),
                type_oid: type_oid.to_u32(),
                type_modifier: attribute.atttypmod,
                number: attribute.attnum,
                class: if mask.is_some() {
                    TypeClass::Text
                } else {
                    class(type_oid)
                },
                not_null: attribute.attnotnull,
                default: default.map(|default| text(default, in_utf8)),
                generated: attribute.attgenerated != 0,
                identity: (attribute.attidentity != 0).then_some(attribute.attidentity as u8 as char),
                in_primary_key: keys.primary.contains(&number),
                in_identity: keys.has(number),
                masked: mask.is_some(),
                literal_type: needs_typed_literal(type_oid, base)
                    .then(|| typed(pg_sys::format_type_extended(base, -1, QUALIFIED))),
            });
            let binary = options.format.wants_binary_values() && mask.is_none();
            self.masked |= mask.is_some();
            self.sources.push(Source {
                index,
                output: Output::of(type_oid, binary, self.context),
                mask,
            });
            for oid in [type_oid, base] {
                let zero = pg_sys::Datum::from(0);
                let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
                self.type_hashes
                    .push(pg_sys::GetSysCacheHashValue(cache, oid.into(), zero, zero, zero));
            }
        }
    }
}

/// `FORMAT_TYPE_FORCE_QUALIFY`.
const QUALIFIED: u16 = 4;

/// Whether `column = 'text'` does not read the text as a value of the column's type: there, `=` is one of another type (`record`, `oid`), or
/// of any enum, which a domain is not.
unsafe fn needs_typed_literal(type_oid: pg_sys::Oid, base: pg_sys::Oid) -> bool {
    // SAFETY: types that exist in the catalog of the transaction.
    unsafe {
        wire::NAMED_NUMBERS.contains(&base)
            || type_oid.to_u32() >= pg_sys::FirstNormalObjectId
                && (pg_sys::type_is_rowtype(base) || type_oid != base && pg_sys::type_is_enum(base))
    }
}

/// An option and the table it names, a partition or a parent of the one whose rows these are told as, which would say nothing.
unsafe fn bypassed(
    rows: pg_sys::Relation,
    told: pg_sys::Relation,
    name: (&[u8], &[u8]),
    options: &Options,
) -> Option<(&'static str, Vec<u8>)> {
    // SAFETY: open relations.
    let (rows, told) = unsafe { (Relation::open((*rows).rd_id)?, (*told).rd_id) };
    let mut others = hierarchy::ancestors(&rows);
    others.push(rows.oid());
    others.into_iter().filter(|other| *other != told).find_map(|other| {
        // SAFETY: an open relation.
        let (schema, table) = unsafe { names(Relation::open(other)?.raw()) };
        let option = options.filters.bypassed((&schema, &table), name)?;
        Some((option, [quoted(&schema), quoted(&table)].join(&b'.')))
    })
}

fn told_as_another(option: &str, named: &[u8], told: &[u8]) -> UserError {
    let (named, told) = (String::from_utf8_lossy(named), String::from_utf8_lossy(told));
    UserError::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("option \"{option}\" names table {named}, whose rows are told as those of {told}"),
        "It would say nothing of them, and nothing is told rather than what was to be kept back.",
        "Name the table as it is told: partitions by their own names, or with publish-via-root by their root's.",
    )
}

fn missing_column(option: &str, table: &[u8], column: &[u8], columns: &[&[u8]]) -> UserError {
    let (table, column) = (String::from_utf8_lossy(table), String::from_utf8_lossy(column));
    let there: Vec<_> = columns.iter().map(|column| String::from_utf8_lossy(column)).collect();
    UserError::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("option \"{option}\" names column \"{column}\", which table {table} does not have"),
        "Its values may be in a column of another name, and nothing is told rather than that.",
        format!(
            "Columns are: {}. For changes from before the column was made, leave it out of the option.",
            there.join(", ")
        ),
    )
}

/// A materialized view: what it holds is made anew from its tables wherever these are replayed, and cannot be written.
unsafe fn is_derived(relation: pg_sys::Relation) -> bool {
    // SAFETY: an open relation.
    unsafe { (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_MATVIEW }
}

/// The topmost table that a partition belongs to.
unsafe fn root(relation: pg_sys::Relation) -> Option<Relation> {
    // SAFETY: an open relation.
    let relation = unsafe { Relation::open((*relation).rd_id) }?;
    let root = hierarchy::ancestors(&relation).pop()?;
    Relation::open(root)
}

/// The nearest table above a partition that is among these.
unsafe fn listed_above(relation: pg_sys::Relation, only: &[u32], in_utf8: bool) -> Option<(u32, Vec<u8>)> {
    // SAFETY: open relations.
    unsafe {
        let relation = Relation::open((*relation).rd_id)?;
        let mut ancestors = hierarchy::ancestors(&relation).into_iter();
        let above = ancestors.find(|above| only.contains(&above.to_u32()))?;
        let (schema, name) = names(Relation::open(above)?.raw());
        Some((
            above.to_u32(),
            text([quoted(&schema), quoted(&name)].join(&b'.'), in_utf8),
        ))
    }
}

/// Schema and name, as in the catalog.
unsafe fn names(relation: pg_sys::Relation) -> (Vec<u8>, Vec<u8>) {
    // SAFETY: an open relation.
    unsafe {
        let class = &*(*relation).rd_rel;
        // A rewrite writes into a table of its own, which is told as the one that it becomes.
        let name = if class.relrewrite == pg_sys::InvalidOid {
            bytes(class.relname.data.as_ptr())
        } else {
            bytes(pg_sys::get_rel_name(class.relrewrite))
        };
        (bytes(pg_sys::get_namespace_name(class.relnamespace)), name)
    }
}

/// An attribute, its name, and the expression of its default as the catalog has it.
type Attribute<'a> = (&'a pg_sys::FormData_pg_attribute, Vec<u8>, Option<*const c_char>);

/// Those that are not dropped.
unsafe fn live<'a>(relation: pg_sys::Relation) -> Vec<Attribute<'a>> {
    // SAFETY: an open relation, which outlives the result.
    unsafe {
        let descriptor = (*relation).rd_att;
        let constraints = (*descriptor).constr;
        let defaults = if constraints.is_null() || (*constraints).num_defval == 0 {
            &[]
        } else {
            std::slice::from_raw_parts((*constraints).defval, usize::from((*constraints).num_defval))
        };
        (0..(*descriptor).natts as usize)
            .map(|index| &*compat::tuple_attribute(descriptor, index))
            .filter(|attribute| !attribute.attisdropped)
            .map(|attribute| {
                let default = defaults.iter().find(|default| default.adnum == attribute.attnum);
                let name = bytes(attribute.attname.data.as_ptr());
                (attribute, name, default.map(|default| default.adbin.cast_const()))
            })
            .collect()
    }
}

/// An expression of the catalog as SQL.
unsafe fn expression(stored: *const c_char, relation: pg_sys::Relation, name: &[u8]) -> Option<Vec<u8>> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: the catalog's text of an expression over the relation, which is open.
    unsafe {
        let expression = pg_sys::stringToNode(stored);
        let context = pg_sys::deparse_context_for(name.as_ptr(), (*relation).rd_id);
        let text = pg_sys::deparse_expression(expression.cast(), context, false, false);
        Some(bytes(text))
    }
}

/// In UTF-8 if asked for.
fn text(bytes: Vec<u8>, in_utf8: bool) -> Vec<u8> {
    // SAFETY: reads a variable of the server.
    let database = unsafe { pg_sys::GetDatabaseEncoding() } as u32;
    if !in_utf8 || bytes.is_ascii() || matches!(database, PG_UTF8 | PG_SQL_ASCII) {
        return bytes;
    }
    encoding::to_utf8(&bytes).into_bytes()
}

/// What identifies a row: columns by attribute number.
struct Keys {
    identity: ReplicaIdentity,
    primary: Vec<i16>,
    replica: Vec<i16>,
}

impl Keys {
    fn has(&self, number: i16) -> bool {
        self.identity == ReplicaIdentity::Full || self.replica.contains(&number)
    }

    unsafe fn of(relation: pg_sys::Relation) -> Self {
        // SAFETY: RelationGetIndexList fills in which indexes are the primary key and the replica identity; no lock is needed with
        // a historic catalog.
        unsafe {
            pg_sys::list_free(pg_sys::RelationGetIndexList(relation));
            Self {
                identity: match (*(*relation).rd_rel).relreplident as u8 {
                    b'i' => ReplicaIdentity::Index,
                    b'f' => ReplicaIdentity::Full,
                    b'n' => ReplicaIdentity::Nothing,
                    _ => ReplicaIdentity::Default,
                },
                primary: index_columns((*relation).rd_pkindex),
                replica: index_columns((*relation).rd_replidindex),
            }
        }
    }
}

fn index_columns(index: pg_sys::Oid) -> Vec<i16> {
    if index == pg_sys::InvalidOid {
        return Vec::new();
    }
    let Some(relation) = Relation::open(index) else {
        return Vec::new();
    };
    let Some(form) = relation.index_form() else {
        return Vec::new();
    };
    // SAFETY: indkey holds indnatts numbers, those of the key first.
    unsafe { std::slice::from_raw_parts(form.indkey.values.as_ptr(), form.indnkeyatts as usize).to_vec() }
}

/// Goes by the type itself, as `test_decoding` and wal2json do.
fn class(oid: pg_sys::Oid) -> TypeClass {
    match oid {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::OIDOID => TypeClass::Integer,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID | pg_sys::NUMERICOID => TypeClass::Number,
        pg_sys::BOOLOID => TypeClass::Boolean,
        pg_sys::BITOID | pg_sys::VARBITOID => TypeClass::Bits,
        pg_sys::JSONOID | pg_sys::JSONBOID => TypeClass::Json,
        pg_sys::BYTEAOID => TypeClass::Bytes,
        _ => TypeClass::Text,
    }
}

/// A C string's bytes; none for null.
unsafe fn bytes(text: *const std::ffi::c_char) -> Vec<u8> {
    if text.is_null() {
        return Vec::new();
    }
    // SAFETY: the server's strings end in NUL.
    unsafe { CStr::from_ptr(text).to_bytes().to_vec() }
}

/// As in SQL.
fn quoted(name: &[u8]) -> Vec<u8> {
    let Ok(name) = std::ffi::CString::new(name) else {
        return name.to_vec();
    };
    // SAFETY: returns its argument or a palloc'd string.
    unsafe { bytes(pg_sys::quote_identifier(name.as_ptr())) }
}
