//! What a statement says about its session, which the other nodes do not have: `SET … FROM CURRENT` of a function, whose value travels,
//! and `SESSION_USER`, which does not: a name must be given.

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::errors::UserError;
use crate::pg::list;
use crate::pg::relcache::c_text;

/// Marks the names of settings that a statement takes over. They come behind the others, and are taken as they are.
pub const TAKEN_OVER: &str = "FROM CURRENT ";

/// The settings that the statement takes over from its session, by their marked names.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn settings_taken_over(statement: *mut pg_sys::Node) -> Result<Vec<(String, String)>, UserError> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the pointer may be cast to; options named "set" hold a VariableSetStmt, as in the grammar.
    unsafe {
        let options = match (*statement).type_ {
            Tag::T_CreateFunctionStmt => (*statement.cast::<pg_sys::CreateFunctionStmt>()).options,
            Tag::T_AlterFunctionStmt => (*statement.cast::<pg_sys::AlterFunctionStmt>()).actions,
            _ => return Ok(Vec::new()),
        };
        let mut taken = Vec::new();
        for option in list::pointers::<pg_sys::DefElem>(options) {
            if c_text((*option).defname) != "set" {
                continue;
            }
            let set = (*option).arg.cast::<pg_sys::VariableSetStmt>();
            if (*set).kind != pg_sys::VariableSetKind::VAR_SET_CURRENT {
                continue;
            }
            let name = c_text((*set).name);
            if ["role", "session_authorization"].contains(&name.to_ascii_lowercase().as_str()) {
                return Err(not_of_the_session(&format!("SET {name} FROM CURRENT")));
            }
            let value = pg_sys::GetConfigOption((*set).name, true, false);
            // What is not there the statement itself refuses.
            if !value.is_null() {
                taken.push((format!("{TAKEN_OVER}{name}"), c_text(value)));
            }
        }
        Ok(taken)
    }
}

/// Refuse a statement that names SESSION_USER.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn check(statement: *mut pg_sys::Node) -> Result<(), UserError> {
    // SAFETY: by contract; the roles are RoleSpec nodes.
    let named = unsafe {
        roles(statement)
            .into_iter()
            .any(|role| !role.is_null() && (*role).roletype == pg_sys::RoleSpecType::ROLESPEC_SESSION_USER)
    };
    if named {
        Err(not_of_the_session("SESSION_USER"))
    } else {
        Ok(())
    }
}

/// The names of the roles that the statement names; not of those that it means by CURRENT_USER and the like.
///
/// # Safety
/// A valid utility statement.
pub unsafe fn named_roles(statement: *mut pg_sys::Node) -> Vec<String> {
    // SAFETY: by contract; the roles are RoleSpec nodes, and one by name has it.
    unsafe {
        let named = roles(statement)
            .into_iter()
            .filter(|role| !role.is_null() && (**role).roletype == pg_sys::RoleSpecType::ROLESPEC_CSTRING);
        named.map(|role| c_text((*role).rolename)).collect()
    }
}

/// The roles that the statement names.
unsafe fn roles(statement: *mut pg_sys::Node) -> Vec<*mut pg_sys::RoleSpec> {
    use pg_sys::NodeTag as Tag;
    let listed = |roles: *mut pg_sys::List| {
        // SAFETY: a list of RoleSpec nodes.
        unsafe { list::pointers::<pg_sys::RoleSpec>(roles) }
    };
    // SAFETY: the tag says what the pointer may be cast to.
    unsafe {
        match (*statement).type_ {
            Tag::T_GrantStmt => {
                let grant = &*statement.cast::<pg_sys::GrantStmt>();
                let mut found = listed(grant.grantees);
                found.push(grant.grantor);
                found
            }
            Tag::T_AlterDefaultPrivilegesStmt => {
                let alter = &*statement.cast::<pg_sys::AlterDefaultPrivilegesStmt>();
                let mut found = roles(alter.action.cast());
                for option in list::pointers::<pg_sys::DefElem>(alter.options) {
                    if c_text((*option).defname) == "roles" {
                        found.extend(listed((*option).arg.cast()));
                    }
                }
                found
            }
            Tag::T_AlterOwnerStmt => vec![(*statement.cast::<pg_sys::AlterOwnerStmt>()).newowner],
            Tag::T_AlterTableStmt => {
                let commands =
                    list::pointers::<pg_sys::AlterTableCmd>((*statement.cast::<pg_sys::AlterTableStmt>()).cmds);
                commands.into_iter().map(|command| (*command).newowner).collect()
            }
            Tag::T_CreateSchemaStmt => {
                let create = &*statement.cast::<pg_sys::CreateSchemaStmt>();
                let elements = list::pointers::<pg_sys::Node>(create.schemaElts);
                let mut found: Vec<_> = elements.into_iter().flat_map(|element| roles(element)).collect();
                found.push(create.authrole);
                found
            }
            Tag::T_CreatePolicyStmt => listed((*statement.cast::<pg_sys::CreatePolicyStmt>()).roles),
            Tag::T_AlterPolicyStmt => listed((*statement.cast::<pg_sys::AlterPolicyStmt>()).roles),
            Tag::T_DropOwnedStmt => listed((*statement.cast::<pg_sys::DropOwnedStmt>()).roles),
            Tag::T_ReassignOwnedStmt => {
                let reassign = &*statement.cast::<pg_sys::ReassignOwnedStmt>();
                let mut found = listed(reassign.roles);
                found.push(reassign.newrole);
                found
            }
            _ => Vec::new(),
        }
    }
}

fn not_of_the_session(what: &str) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot use {what} in a statement that changes definitions of the group"),
        "The other nodes run it without its session: there it would mean somebody else.",
        "Give the role's name.",
    )
}
