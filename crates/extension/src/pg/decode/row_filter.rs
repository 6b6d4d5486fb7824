//! A condition on the rows of a table, evaluated as they are decoded.
//!
//! As in the row filters of publications, only what cannot look at the database as it is now is allowed: columns, constants,
//! immutable functions and operators of the server itself. A user's function could read tables whose rows of that time are gone,
//! or change what it answers; a type's own functions, too, so of types only the server's, enums, and domains over these.

use std::ffi::{CString, c_void};
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_guard, pg_sys};

use super::values::{RowBuffer, is_on_disk};
use crate::errors::UserError;
use crate::pg::relcache::c_text;
use crate::pg::{compat, list};

/// A condition, ready to be evaluated. Lives in the memory context that it was made for.
pub struct RowFilter {
    state: *mut pg_sys::ExprState,
    expression_context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
    /// As it was given.
    condition: String,
    /// What it reads: attribute number - 1, and whether it is a varlena.
    columns: Vec<(usize, bool)>,
    /// All of these are in the old version of a row, too.
    pub covered: bool,
}

/// What is wrong with a condition: a sentence.
pub struct Invalid(String);

impl Invalid {
    /// The error for the user, with the quoted name of the table.
    pub fn of_table(self, table: &[u8]) -> UserError {
        self.told(&format!("row filter of table {}", String::from_utf8_lossy(table)))
    }

    fn told(self, what: &str) -> UserError {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{what} is not valid"),
            self.0,
            "It is a Boolean expression of columns, constants, and immutable built-in functions and operators.",
        )
    }
}

/// Whether a condition is an expression at all; more cannot be said without its table.
///
/// # Safety
/// In the startup callback: outside a transaction, perhaps.
pub unsafe fn check_syntax(condition: &[u8]) -> Result<(), UserError> {
    // SAFETY: the parser looks at nothing but its text.
    let parsed = caught(|| unsafe { parse(condition).map(|_| ()) });
    parsed.map_err(|error| error.told("option \"row-filter\""))
}

impl RowFilter {
    /// For a relation, in `context`. `in_identity` tells which attributes the old version of a row has.
    ///
    /// # Safety
    /// In a callback, with the historic catalog.
    pub unsafe fn new(
        condition: &[u8],
        relation: pg_sys::Relation,
        context: pg_sys::MemoryContext,
        in_identity: impl Fn(i16) -> bool,
    ) -> Result<Self, Invalid> {
        // SAFETY: by contract; the context is set back whether or not the server raises.
        unsafe {
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = context;
            let compiled = caught(|| compile(condition, relation));
            pg_sys::CurrentMemoryContext = before;
            let mut filter = compiled?;
            filter.condition = String::from_utf8_lossy(condition).into_owned();
            filter.covered = filter.columns.iter().all(|(index, _)| in_identity(*index as i16 + 1));
            Ok(filter)
        }
    }

    /// Whether a row fulfils it: NULL does not. What did not change and is not in the WAL is taken from the `old` version.
    ///
    /// # Safety
    /// The rows were taken apart with the descriptor of the relation.
    pub unsafe fn matches(&self, row: &RowBuffer, old: Option<&RowBuffer>, table: &[u8]) -> Result<bool, UserError> {
        // SAFETY: the slot has one value and flag per attribute.
        unsafe {
            pg_sys::ExecClearTuple(self.slot);
            for (index, is_varlena) in &self.columns {
                let mut from = row;
                if *is_varlena && !row.nulls[*index] && is_on_disk(row.datums[*index]) {
                    from = old.filter(|old| !old.nulls[*index]).ok_or_else(not_in_wal)?;
                }
                *(*self.slot).tts_values.add(*index) = from.datums[*index];
                *(*self.slot).tts_isnull.add(*index) = from.nulls[*index];
            }
            pg_sys::ExecStoreVirtualTuple(self.slot);
            (*self.expression_context).ecxt_scantuple = self.slot;
            // Costs nothing but a landing pad as long as nothing is raised.
            let evaluated = std::panic::catch_unwind(AssertUnwindSafe(|| self.evaluate()));
            evaluated.or_else(|raised| {
                let raise = || std::panic::resume_unwind(raised);
                caught(raise).map_err(|reason| self.failed(table, reason))
            })
        }
    }

    /// # Safety
    /// The row is in the slot.
    unsafe fn evaluate(&self) -> bool {
        // SAFETY: by contract.
        unsafe {
            let mut is_null = false;
            let result = pg_sys::ExecEvalExprSwitchContext(self.state, self.expression_context, &mut is_null);
            let matches = !is_null && result.value() as u8 != 0;
            pg_sys::MemoryContextReset((*self.expression_context).ecxt_per_tuple_memory);
            matches
        }
    }

    fn failed(&self, table: &[u8], reason: Invalid) -> UserError {
        UserError::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "row filter of table {} cannot be evaluated for a row: ({})",
                String::from_utf8_lossy(table),
                self.condition
            ),
            reason.0,
            "Give a condition that is an error for no row of the table: CASE guards a part of it.",
        )
    }
}

/// An UPDATE or DELETE of a table whose old rows lack what its condition reads.
pub fn not_covered(table: &[u8]) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!(
            "row filter of table {} cannot be evaluated for UPDATE and DELETE",
            String::from_utf8_lossy(table)
        ),
        "It uses columns that are not part of the table's replica identity, so that nothing says whether the old row fulfilled it.",
        "Set REPLICA IDENTITY FULL (for changes to come), filter by columns of the key, or ask for operations = insert only.",
    )
}

fn not_in_wal() -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "a row filter needs a value that is not in the WAL",
        "The column is stored out of line and did not change.",
        "Set REPLICA IDENTITY FULL, or filter by other columns.",
    )
}

/// Run what may raise, and turn that into what is wrong.
fn caught<T>(work: impl FnOnce() -> Result<T, Invalid>) -> Result<T, Invalid> {
    let mut work = Some(work);
    PgTryBuilder::new(AssertUnwindSafe(|| match work.take() {
        Some(work) => work(),
        None => Err(Invalid(String::new())),
    }))
    .catch_others(|error| match &error {
        CaughtError::PostgresError(report) if is_of_the_condition(report.sql_error_code()) => {
            Err(Invalid(format!("The server says: {}.", report.message())))
        }
        _ => error.rethrow(),
    })
    .execute()
}

/// Whether an error says that the condition is wrong: of syntax and names, of constants, of what is not supported. Others are not
/// ours: that a transaction in progress was rolled back meanwhile, say.
fn is_of_the_condition(code: PgSqlErrorCode) -> bool {
    use PgSqlErrorCode as Code;
    // The class of an SQLSTATE is in its low twelve bits.
    let class = |code: Code| code as u32 & 0xfff;
    [
        Code::ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION,
        Code::ERRCODE_DATA_EXCEPTION,
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
    ]
    .into_iter()
    .any(|of| class(of) == class(code))
}

/// The expression, not analysed.
unsafe fn parse(condition: &[u8]) -> Result<(CString, *mut pg_sys::Node), Invalid> {
    let text = CString::new(condition).map_err(|_| Invalid("It contains a zero byte.".into()))?;
    // SAFETY: the parser gives one SELECT without that word.
    unsafe {
        let parsed = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR);
        let statement = (*list::pointer::<pg_sys::RawStmt>(parsed, 0)).stmt;
        let select = &*statement.cast::<pg_sys::SelectStmt>();
        let plain = list::length(select.targetList) == 1
            && select.distinctClause.is_null()
            && select.fromClause.is_null()
            && select.whereClause.is_null()
            && select.groupClause.is_null()
            && select.havingClause.is_null()
            && select.windowClause.is_null()
            && select.sortClause.is_null()
            && select.limitCount.is_null()
            && select.limitOffset.is_null()
            && select.lockingClause.is_null();
        let not_plain = || Invalid("It is more than one expression.".into());
        if !plain {
            return Err(not_plain());
        }
        let target = &*list::pointer::<pg_sys::ResTarget>(select.targetList, 0);
        if !target.name.is_null() || !target.indirection.is_null() {
            return Err(not_plain());
        }
        Ok((text, target.val))
    }
}

unsafe fn compile(condition: &[u8], relation: pg_sys::Relation) -> Result<RowFilter, Invalid> {
    // SAFETY: inside a transaction; all that is made lives in the current memory context.
    unsafe {
        let (text, expression) = parse(condition)?;
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = text.as_ptr();
        (*state).p_post_columnref_hook = Some(resolve_column);
        (*state).p_ref_hook_state = relation.cast();
        let expression = pg_sys::transformExpr(state, expression, pg_sys::ParseExprKind::EXPR_KIND_WHERE);
        let expression = pg_sys::coerce_to_boolean(state, expression, c"WHERE".as_ptr());
        pg_sys::assign_expr_collations(state, expression);
        let mut check = Check::default();
        check_node(expression, (&raw mut check).cast());
        if let Some(problem) = check.problem {
            return Err(Invalid(problem.into()));
        }
        if pg_sys::contain_mutable_functions(expression) {
            return Err(Invalid("It uses a function that is not immutable.".into()));
        }
        let planned = pg_sys::expression_planner(expression.cast());
        let descriptor = pg_sys::CreateTupleDescCopy((*relation).rd_att);
        let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
        for index in 0..(*descriptor).natts as usize {
            *(*slot).tts_values.add(index) = pg_sys::Datum::from(0);
            *(*slot).tts_isnull.add(index) = true;
        }
        check.columns.sort_unstable();
        check.columns.dedup();
        let is_varlena = |index: usize| (*compat::tuple_attribute(descriptor, index)).attlen == -1;
        Ok(RowFilter {
            state: pg_sys::ExecInitExpr(planned, std::ptr::null_mut()),
            expression_context: pg_sys::CreateStandaloneExprContext(),
            slot,
            condition: String::new(),
            columns: check.columns.iter().map(|index| (*index, is_varlena(*index))).collect(),
            covered: false,
        })
    }
}

/// A name in a condition is a column of the relation, or an error of the parser.
#[pg_guard]
unsafe extern "C-unwind" fn resolve_column(
    state: *mut pg_sys::ParseState,
    reference: *mut pg_sys::ColumnRef,
    found: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    // SAFETY: set up in `compile`; fields are Strings (or a star, which is none of ours).
    unsafe {
        let relation = (*state).p_ref_hook_state.cast::<pg_sys::RelationData>();
        let fields = list::pointers::<pg_sys::String>((*reference).fields);
        let [field] = fields.as_slice() else { return found };
        if !found.is_null() || (**field).type_ != pg_sys::NodeTag::T_String {
            return found;
        }
        let (name, descriptor) = (c_text((**field).sval), (*relation).rd_att);
        for index in 0..(*descriptor).natts as usize {
            let attribute = &*compat::tuple_attribute(descriptor, index);
            if !attribute.attisdropped
                && !compat::is_virtual(attribute)
                && c_text(attribute.attname.data.as_ptr()) == name
            {
                let variable = pg_sys::makeVar(
                    1,
                    attribute.attnum,
                    attribute.atttypid,
                    attribute.atttypmod,
                    attribute.attcollation,
                    0,
                );
                return variable.cast();
            }
        }
        found
    }
}

#[derive(Default)]
struct Check {
    problem: Option<&'static str>,
    columns: Vec<usize>,
}

/// True ends the walk: there is a problem.
#[pg_guard]
unsafe extern "C-unwind" fn check_node(node: *mut pg_sys::Node, check: *mut c_void) -> bool {
    use pg_sys::NodeTag as Tag;
    if node.is_null() {
        return false;
    }
    // SAFETY: the tag says what the node is; `check` is that of `compile`.
    unsafe {
        let state = &mut *check.cast::<Check>();
        let is_typed = match (*node).type_ {
            Tag::T_List | Tag::T_CaseWhen => false,
            Tag::T_Var => {
                state.columns.push((*node.cast::<pg_sys::Var>()).varattno as usize - 1);
                true
            }
            Tag::T_Const
            | Tag::T_FuncExpr
            | Tag::T_OpExpr
            | Tag::T_DistinctExpr
            | Tag::T_NullIfExpr
            | Tag::T_ScalarArrayOpExpr
            | Tag::T_BoolExpr
            | Tag::T_RelabelType
            | Tag::T_CollateExpr
            | Tag::T_CaseExpr
            | Tag::T_CaseTestExpr
            | Tag::T_ArrayExpr
            | Tag::T_CoalesceExpr
            | Tag::T_MinMaxExpr
            | Tag::T_NullTest
            | Tag::T_BooleanTest
            | Tag::T_ArrayCoerceExpr
            | Tag::T_CoerceViaIO => true,
            _ => {
                state.problem = Some("It is not a simple expression: no subqueries, no aggregates, no rows.");
                return true;
            }
        };
        if pg_sys::check_functions_in_node(node, Some(is_users_function), std::ptr::null_mut()) {
            state.problem = Some("It uses a function or operator that is not built in.");
        } else if is_typed && !is_known_type(pg_sys::exprType(node)) {
            state.problem = Some("It uses a type that is neither built in nor an enum, nor a domain over such.");
        }
        state.problem.is_some() || compat::expression_tree_walker(node, check_node, check)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn is_users_function(function: pg_sys::Oid, _argument: *mut c_void) -> bool {
    function.to_u32() >= pg_sys::FirstNormalObjectId
}

/// The type's comparisons are the server's own code.
fn is_known_type(oid: pg_sys::Oid) -> bool {
    // SAFETY: inside a transaction, with a type that exists.
    unsafe {
        let base = pg_sys::getBaseType(oid);
        let element = pg_sys::get_element_type(base);
        let base = if element == pg_sys::InvalidOid {
            base
        } else {
            pg_sys::getBaseType(element)
        };
        base.to_u32() < pg_sys::FirstNormalObjectId || pg_sys::get_typtype(base) as u8 == b'e'
    }
}
