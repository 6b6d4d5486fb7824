//! Expressions whose results could differ from node to node: defaults and conversions, which each node computes for the rows that it has.

use pgrx::pg_sys;

use crate::pg::relcache::{Relation, c_text};

/// Whether an analysed default may give something else on each node.
pub(super) fn is_unlike(default: *mut pg_sys::Node) -> bool {
    // SAFETY: an analysed expression.
    unsafe {
        pg_sys::contain_volatile_functions(default)
            || pg_sys::contain_mutable_functions(default) && asks_server(default)
    }
}

/// Whether an analysed expression asks for the number of its table.
pub(super) fn names_tableoid(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: an analysed expression; in its text form a column goes by its number.
    let text = unsafe { c_text(pg_sys::nodeToString(expression.cast())) };
    text.contains(&format!(":varattno {} ", pg_sys::TableOidAttributeNumber))
}

/// Stable functions of the server's that come out alike on every node: the transaction's time, the settings and the role travel.
const ALIKE: &str = "ARRAY['now', 'transaction_timestamp', 'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'timezone',
    'to_char', 'to_date', 'to_timestamp', 'to_number', 'date_trunc', 'date_part', 'extract', 'age', 'concat', 'concat_ws', 'format',
    'array_to_string', 'to_json', 'to_jsonb', 'json_build_object', 'jsonb_build_object', 'json_build_array', 'jsonb_build_array',
    'numeric', 'money', 'interval', 'text', 'timestamptz_pl_interval', 'timestamptz_mi_interval', 'interval_pl_timestamptz']";

/// From `SESSION_USER` on (then the database, and the schema) the names of the standard say what differs from node to node.
const FIRST_OF_NODE: u32 = pg_sys::SQLValueFunctionOp::SVFOP_SESSION_USER;

/// Columns of the system and types that show where and when a node stored what, or by which number it knows an object.
const OF_NODE: [&str; 15] = [
    "tableoid",
    "xmin",
    "xmax",
    "cmin",
    "cmax",
    "ctid",
    "regclass",
    "regproc",
    "regprocedure",
    "regoper",
    "regoperator",
    "regrole",
    "regnamespace",
    "regcollation",
    "regtype",
];

/// What follows a label in the text of an expression.
fn numbers(text: &str, label: &str) -> Vec<u32> {
    let found = text.split(label).skip(1);
    found
        .filter_map(|rest| rest.split([' ', '}', ')']).next()?.parse().ok())
        .collect()
}

/// The functions in the text of an analysed expression.
fn called(text: &str) -> Vec<pg_sys::Oid> {
    let mut called = numbers(text, ":funcid ");
    called.extend(numbers(text, ":opfuncid "));
    called.into_iter().map(pg_sys::Oid::from).collect()
}

fn names_of_node(text: &str) -> bool {
    numbers(text, "{SQLVALUEFUNCTION :op ")
        .into_iter()
        .any(|name| name >= FIRST_OF_NODE)
}

/// Whether an analysed expression asks for what differs from node to node: any stable function but those known not to.
unsafe fn asks_server(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: a valid expression.
    let text = unsafe { c_text(pg_sys::nodeToString(expression.cast())) };
    let called = called(&text);
    let query = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE oid = ANY ($1) AND provolatile <> 'i'
                        AND (oid >= 16384 OR proname <> ALL ({ALIKE})))"
    );
    names_of_node(&text)
        || !matches!(
            pgrx::Spi::get_one_with_args::<bool>(&query, &[called.into()]),
            Ok(Some(false))
        )
}

/// Whether a column's values get their new type by a function of somebody's, behind a cast or an operator, whose results could differ
/// from node to node. As `ATPrepAlterColumnType` of commands/tablecmds.c finds the conversion; what cannot be converted is left to it.
pub(super) unsafe fn converts_unlike(oid: pg_sys::Oid, command: &pg_sys::AlterTableCmd) -> bool {
    const LOCK: u32 = pg_sys::AccessShareLock;
    let Some(relation) = Relation::open_locked(oid, LOCK) else {
        return false;
    };
    // SAFETY: by contract of the caller: the command changes a column's type; the nodes are of this memory context.
    unsafe {
        let column = pg_sys::get_attnum(oid, command.name);
        if column <= 0 {
            return false;
        }
        let attribute = relation.attribute(column as usize - 1);
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        let item = pg_sys::addRangeTableEntryForRelation(
            state,
            relation.raw(),
            LOCK as pg_sys::LOCKMODE,
            std::ptr::null_mut(),
            false,
            true,
        );
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        let definition = &*command.def.cast::<pg_sys::ColumnDef>();
        let value: *mut pg_sys::Node = match definition.raw_default.is_null() {
            true => pg_sys::makeVar(
                1,
                column,
                attribute.atttypid,
                attribute.atttypmod,
                attribute.attcollation,
                0,
            )
            .cast(),
            false => pg_sys::transformExpr(
                state,
                pg_sys::copyObjectImpl(definition.raw_default.cast()).cast(),
                pg_sys::ParseExprKind::EXPR_KIND_ALTER_COL_TRANSFORM,
            ),
        };
        let (mut kind, mut modifier) = (pg_sys::InvalidOid, -1);
        pg_sys::typenameTypeIdAndMod(state, definition.typeName, &mut kind, &mut modifier);
        let converted = pg_sys::coerce_to_target_type(
            state,
            value,
            pg_sys::exprType(value),
            kind,
            modifier,
            pg_sys::CoercionContext::COERCION_ASSIGNMENT,
            pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
            -1,
        );
        !converted.is_null() && (pg_sys::contain_volatile_functions(converted) || calls_stable_of_users(converted))
    }
}

/// Whether an analysed expression calls a function that somebody made and that is not immutable.
unsafe fn calls_stable_of_users(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: a valid expression.
    let called = unsafe { called(&c_text(pg_sys::nodeToString(expression.cast()))) };
    let query =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE oid = ANY ($1) AND oid >= 16384 AND provolatile <> 'i')";
    !matches!(
        pgrx::Spi::get_one_with_args::<bool>(query, &[called.into()]),
        Ok(Some(false))
    )
}

/// Whether an expression that was not analysed yet may call a function, by name, whose results differ from node to node.
pub(super) unsafe fn calls_unlike(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: a raw expression; its text form names functions as `:funcname ("schema" "name")`.
    let text = unsafe {
        let text = pg_sys::nodeToString(expression.cast());
        c_text(text)
    };
    if OF_NODE.iter().any(|name| text.contains(&format!("\"{name}\""))) {
        return true;
    }
    let mut names = Vec::new();
    for part in text.split(":funcname (").skip(1) {
        let inside = part.split(')').next().unwrap_or_default();
        names.extend(
            inside
                .split_whitespace()
                .last()
                .map(|name| name.trim_matches('"').to_owned()),
        );
    }
    if names_of_node(&text) {
        return true;
    }
    if names.is_empty() {
        return false;
    }
    let query = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proname = ANY ($1::pg_catalog.text[]) AND provolatile <> 'i'
                        AND (provolatile = 'v' OR oid >= 16384 OR proname <> ALL ({ALIKE})))"
    );
    let found = pgrx::Spi::get_one_with_args::<bool>(&query, &[names.into()]);
    !matches!(found, Ok(Some(false)))
}
