//! What a node needs to make a table: the owner and his right to do so, and the types, functions and other objects that the table's
//! columns, keys, constraints and defaults use. Looked up here, and asked for there by name, so that apply does not stop over it.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::{Objection, code};
use crate::errors::UserError;
use crate::pg::client::Client;
use crate::pg::libpq::PqError;
use crate::pg::relcache::Relation;

/// The objects that the table's parts depend on, and that are no parts of it; not what the server itself brings, for that is in no
/// dependency. What is left out where it cannot be made (triggers, policies) is not looked at.
const OBJECTS: &str = "
WITH RECURSIVE tree AS (
    SELECT $1::pg_catalog.oid AS oid
    UNION ALL
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid
), part (classid, objid) AS (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, oid FROM tree
    UNION SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, indexrelid FROM pg_catalog.pg_index JOIN tree ON oid = indrelid
    UNION SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid FROM pg_catalog.pg_constraint c JOIN tree ON tree.oid = c.conrelid
    UNION SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid FROM pg_catalog.pg_attrdef d JOIN tree ON tree.oid = d.adrelid
), used AS (
    SELECT DISTINCT d.refclassid, d.refobjid FROM part JOIN pg_catalog.pg_depend d USING (classid, objid)
    WHERE d.deptype IN ('n', 'a') AND d.refclassid IN ('pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass,
          'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_opclass'::pg_catalog.regclass,
          'pg_catalog.pg_collation'::pg_catalog.regclass, 'pg_catalog.pg_ts_config'::pg_catalog.regclass)
)
SELECT pg_catalog.array_agg(a.type ORDER BY a.type, a.object_names::pg_catalog.text),
       pg_catalog.array_agg(a.object_names::pg_catalog.text ORDER BY a.type, a.object_names::pg_catalog.text),
       pg_catalog.array_agg(a.object_args::pg_catalog.text ORDER BY a.type, a.object_names::pg_catalog.text)
FROM used, pg_catalog.pg_identify_object_as_address(refclassid, refobjid, 0) AS a";

const ROLE: &str = "SELECT pg_catalog.count(*)::pg_catalog.text FROM pg_catalog.pg_roles WHERE rolname = $1";
const SCHEMA: &str = "SELECT (pg_catalog.has_schema_privilege($1::pg_catalog.name, oid, 'CREATE') \
                              AND pg_catalog.has_schema_privilege($1::pg_catalog.name, oid, 'USAGE'))::pg_catalog.text \
                      FROM pg_catalog.pg_namespace WHERE nspname = $2";
const SCHEMA_HERE: &str = "SELECT pg_catalog.pg_get_userbyid($2)::pg_catalog.text, pg_catalog.pg_get_userbyid(nspowner)::pg_catalog.text, \
                           pg_catalog.has_schema_privilege($2, oid, 'CREATE') AND pg_catalog.has_schema_privilege($2, oid, 'USAGE') \
                           FROM pg_catalog.pg_namespace WHERE oid = $1";
const OBJECT: &str = "SELECT classid::pg_catalog.text, objid::pg_catalog.text \
                      FROM pg_catalog.pg_get_object_address($1, $2::pg_catalog.text[], $3::pg_catalog.text[])";
const TYPE_RIGHT: &str = "SELECT pg_catalog.has_type_privilege($1::pg_catalog.name, t.oid, 'USAGE') \
                          AND pg_catalog.has_schema_privilege($1::pg_catalog.name, t.typnamespace, 'USAGE') \
                          FROM pg_catalog.pg_type t WHERE t.oid = $2::pg_catalog.oid";
const FUNCTION_RIGHT: &str = "SELECT pg_catalog.has_function_privilege($1::pg_catalog.name, p.oid, 'EXECUTE') \
                              AND pg_catalog.has_schema_privilege($1::pg_catalog.name, p.pronamespace, 'USAGE') \
                              FROM pg_catalog.pg_proc p WHERE p.oid = $2::pg_catalog.oid";

/// An object by the address that the server itself can look up again.
struct Object {
    kind: String,
    names: String,
    arguments: String,
}

/// What a node that makes the table needs; nothing by default.
#[derive(Default)]
pub struct Needs {
    owner: String,
    schema: String,
    /// The schema's owner, who gets it where it is made; and what the table's owner may do in it here.
    schema_owner: String,
    may_create: bool,
    objects: Vec<Object>,
}

impl Needs {
    /// Those of a table.
    pub fn of(relation: &Relation) -> Result<Self, UserError> {
        let class = relation.class();
        let of_schema = pgrx::Spi::get_three_with_args::<String, String, bool>(
            SCHEMA_HERE,
            &[class.relnamespace.into(), class.relowner.into()],
        );
        let (owner, schema_owner, may_create) = of_schema.map_err(|error| unreadable(&error))?;
        Ok(Self {
            owner: owner.unwrap_or_default(),
            schema: relation.schema(),
            schema_owner: schema_owner.unwrap_or_default(),
            may_create: may_create.unwrap_or(false),
            objects: objects(relation.oid())?,
        })
    }

    /// What of it is not there.
    pub(super) fn lacking(&self, client: &mut Client) -> Result<Vec<Objection>, PqError> {
        let undefined = PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT;
        let forbidden = PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE;
        let objection = |code, what: String| Objection::coded(code, what);
        let mut found = Vec::new();
        if self.owner.is_empty() {
            return Ok(found);
        }
        if !has_role(client, &self.owner)? {
            let what = format!("role \"{}\", the owner of the table, does not exist", self.owner);
            return Ok(vec![objection(undefined, what)]);
        }
        let rows = client.query(SCHEMA, &[Some(&self.owner), Some(&self.schema)])?;
        let rights = rows
            .first()
            .and_then(|row| row.first())
            .map(|right| right.as_deref() == Some("true"));
        if rights.is_none() && !has_role(client, &self.schema_owner)? {
            let what = format!(
                "role \"{}\", the owner of schema \"{}\", does not exist",
                self.schema_owner, self.schema
            );
            found.push(objection(undefined, what));
        }
        if !rights.unwrap_or(self.may_create) {
            let what = format!(
                "role \"{}\" may not create a table in schema \"{}\"",
                self.owner, self.schema
            );
            found.push(objection(forbidden, what));
        }
        for object in &self.objects {
            found.extend(self.lacks(client, object)?);
        }
        Ok(found)
    }

    fn lacks(&self, client: &mut Client, object: &Object) -> Result<Option<Objection>, PqError> {
        let address = [Some(object.kind.as_str()), Some(&object.names), Some(&object.arguments)];
        let rows = match client.query(OBJECT, &address) {
            Ok(rows) => rows,
            Err(error) if error.sqlstate.is_none() => return Err(error),
            Err(error) => {
                return Ok(Some(Objection::coded(code(&error), error.message)));
            }
        };
        let right = match object.kind.as_str() {
            "type" => TYPE_RIGHT,
            "function" => FUNCTION_RIGHT,
            _ => return Ok(None),
        };
        let oid = rows.first().and_then(|row| row.get(1)?.as_deref());
        let rows = client.query(right, &[Some(&self.owner), oid])?;
        let may = rows.first().and_then(|row| row.first()?.as_deref()) == Some("t");
        Ok((!may).then(|| {
            Objection::coded(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("role \"{}\" may not use {} {}", self.owner, object.kind, object.names),
            )
        }))
    }
}

fn has_role(client: &mut Client, name: &str) -> Result<bool, PqError> {
    let rows = client.query(ROLE, &[Some(name)])?;
    Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("1"))
}

fn unreadable(error: &pgrx::spi::Error) -> UserError {
    UserError::new(
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        format!("could not read what the table depends on: {error}"),
        "",
        "",
    )
}

fn objects(table: pg_sys::Oid) -> Result<Vec<Object>, UserError> {
    let found = pgrx::Spi::get_three_with_args::<Vec<String>, Vec<String>, Vec<String>>(OBJECTS, &[table.into()]);
    let (kinds, names, arguments) = found.map_err(|error| unreadable(&error))?;
    let all = kinds.unwrap_or_default().into_iter().zip(names.unwrap_or_default());
    Ok(all
        .zip(arguments.unwrap_or_default())
        .map(|((kind, names), arguments)| Object { kind, names, arguments })
        .collect())
}
