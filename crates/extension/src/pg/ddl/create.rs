//! The statements that make a table as it is here, for nodes that do not have it: from the catalogs, every name with its schema.
//!
//! What certification and apply rely on (columns, keys, constraints, partitions) is one statement list that a node runs whole,
//! or not at all where the table exists; the rest (owner, privileges, triggers, policies, comments) is added one by one, and left out where
//! its functions or roles are missing.

use pgrx::{PgSqlErrorCode, pg_sys};
use synod_change::DdlStatement;

use super::environment;
use crate::errors::UserError;
use crate::pg::format::FixedSettings;
use crate::pg::relcache::{Relation, qualified};

/// The table and its partitions, parents first.
const TREE: &str = "
WITH RECURSIVE tree AS (
    SELECT $1::pg_catalog.oid AS oid, 0 AS level
    UNION ALL
    SELECT i.inhrelid, level + 1 FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid
)";

/// One row per statement, in order.
const ESSENTIAL: &str = "
, sequences AS (
    SELECT d.objid AS oid, d.deptype, d.refobjid AS relation, d.refobjsubid AS attnum,
           pg_catalog.format('AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s',
               pg_catalog.format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
               CASE WHEN s.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END) AS options,
           pg_catalog.format('INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s',
               s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
               CASE WHEN s.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END) AS identity_options
    FROM tree
    JOIN pg_catalog.pg_depend d ON d.refobjid = tree.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
         AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
    JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid
), columns AS (
    SELECT a.attrelid, pg_catalog.string_agg(
        pg_catalog.quote_ident(a.attname) || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0
                THEN pg_catalog.format(' COLLATE %I.%I', cn.nspname, c.collname) ELSE '' END
        || CASE WHEN a.attgenerated = 's' THEN pg_catalog.format(' GENERATED ALWAYS AS (%s) STORED', e.expression)
                WHEN a.attgenerated = 'v' THEN pg_catalog.format(' GENERATED ALWAYS AS (%s) VIRTUAL', e.expression)
                WHEN a.attidentity <> '' AND s.oid IS NOT NULL THEN pg_catalog.format(' GENERATED %s AS IDENTITY (SEQUENCE NAME %s %s)',
                    CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, s.oid::pg_catalog.regclass, s.identity_options)
                WHEN e.expression IS NOT NULL THEN ' DEFAULT ' || e.expression ELSE '' END
        || CASE WHEN a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint n WHERE n.conrelid = a.attrelid
                     AND n.contype = 'n' AND n.conkey = ARRAY[a.attnum]) THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum) AS list
    FROM tree JOIN pg_catalog.pg_attribute a ON a.attrelid = tree.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN (SELECT adrelid, adnum, pg_catalog.pg_get_expr(adbin, adrelid) AS expression FROM pg_catalog.pg_attrdef) e
         ON (e.adrelid, e.adnum) = (a.attrelid, a.attnum)
    LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
    LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = c.collnamespace
    LEFT JOIN sequences s ON (s.relation, s.attnum, s.deptype) = (a.attrelid, a.attnum, 'i')
    GROUP BY a.attrelid
)
SELECT statement FROM (
    SELECT 1 AS step, 0 AS level, oid, pg_catalog.format('CREATE SEQUENCE %s %s', oid::pg_catalog.regclass, options) AS statement
    FROM sequences WHERE deptype = 'a'
    UNION ALL
    SELECT 2, level, tree.oid, pg_catalog.format('CREATE TABLE %s (%s)%s%s', tree.oid::pg_catalog.regclass, columns.list,
        CASE WHEN r.relkind = 'p' THEN ' PARTITION BY ' || pg_catalog.pg_get_partkeydef(r.oid) ELSE '' END,
        CASE WHEN r.reloptions IS NOT NULL THEN ' WITH (' || pg_catalog.array_to_string(r.reloptions, ', ') || ')' ELSE '' END)
    FROM tree JOIN pg_catalog.pg_class r USING (oid) LEFT JOIN columns ON columns.attrelid = tree.oid
    UNION ALL
    SELECT 3, 0, oid, pg_catalog.format('ALTER SEQUENCE %s OWNED BY %s.%I', oid::pg_catalog.regclass, relation::pg_catalog.regclass,
        (SELECT attname FROM pg_catalog.pg_attribute a WHERE (a.attrelid, a.attnum) = (s.relation, s.attnum)))
    FROM sequences s WHERE deptype = 'a'
    UNION ALL
    -- From PostgreSQL 18 on NOT NULL is a constraint with a name; partitions have one of their own before they are attached.
    SELECT 3, level, c.oid, pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s',
        c.conrelid::pg_catalog.regclass, c.conname, pg_catalog.pg_get_constraintdef(c.oid))
    FROM tree JOIN pg_catalog.pg_constraint c ON c.conrelid = tree.oid WHERE c.contype = 'n'
    UNION ALL
    SELECT CASE WHEN c.contype = 'f' THEN 7 ELSE 4 END, level, c.oid, pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s',
        c.conrelid::pg_catalog.regclass, c.conname, pg_catalog.pg_get_constraintdef(c.oid))
    FROM tree JOIN pg_catalog.pg_constraint c ON c.conrelid = tree.oid
    WHERE c.contype IN ('p', 'u', 'x', 'c', 'f') AND c.conparentid = 0 AND c.coninhcount = 0
    UNION ALL
    SELECT 5, level, i.indexrelid, pg_catalog.replace(pg_catalog.pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ')
    FROM tree JOIN pg_catalog.pg_index i ON i.indrelid = tree.oid
    WHERE i.indisvalid AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)
    UNION ALL
    SELECT 6, level, r.oid, pg_catalog.format('ALTER TABLE %s ATTACH PARTITION %s %s', h.inhparent::pg_catalog.regclass,
        r.oid::pg_catalog.regclass, pg_catalog.pg_get_expr(r.relpartbound, r.oid))
    FROM tree JOIN pg_catalog.pg_class r USING (oid) JOIN pg_catalog.pg_inherits h ON h.inhrelid = r.oid
    WHERE r.relispartition AND level > 0
    UNION ALL
    SELECT 8, level, i.indexrelid, pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', tree.oid::pg_catalog.regclass, c.relname)
    FROM tree JOIN pg_catalog.pg_index i ON i.indrelid = tree.oid AND i.indisreplident JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)
) AS statements WHERE statement IS NOT NULL ORDER BY step, level, oid";

/// As above; each may be left out.
const REST: &str = "
SELECT statement FROM (
    SELECT 1 AS step, tree.oid, pg_catalog.format('ALTER TABLE %s %s ROW LEVEL SECURITY', tree.oid::pg_catalog.regclass, what.what) AS statement
    FROM tree JOIN pg_catalog.pg_class r USING (oid)
    JOIN LATERAL (SELECT 'ENABLE' WHERE r.relrowsecurity UNION ALL SELECT 'FORCE' WHERE r.relforcerowsecurity) AS what (what) ON true
    UNION ALL
    SELECT 2, p.oid, pg_catalog.format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, p.polrelid::pg_catalog.regclass,
        CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
        CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        (SELECT pg_catalog.string_agg(CASE WHEN role = 0 THEN 'PUBLIC' ELSE role::pg_catalog.regrole::pg_catalog.text END, ', ')
         FROM pg_catalog.unnest(p.polroles) AS role),
        ' USING (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')',
        ' WITH CHECK (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    FROM tree JOIN pg_catalog.pg_policy p ON p.polrelid = tree.oid
    UNION ALL
    SELECT 3, t.oid, pg_catalog.pg_get_triggerdef(t.oid) FROM tree JOIN pg_catalog.pg_trigger t ON t.tgrelid = tree.oid
    WHERE NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT 4, tree.oid, pg_catalog.format('GRANT %s ON TABLE %s TO %s%s', g.privilege_type, tree.oid::pg_catalog.regclass,
        CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::pg_catalog.regrole::pg_catalog.text END,
        CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM tree JOIN pg_catalog.pg_class r USING (oid) JOIN LATERAL pg_catalog.aclexplode(r.relacl) AS g ON g.grantee <> r.relowner
    UNION ALL
    SELECT 5, tree.oid, pg_catalog.format('GRANT %s (%I) ON TABLE %s TO %s%s', g.privilege_type, a.attname, tree.oid::pg_catalog.regclass,
        CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::pg_catalog.regrole::pg_catalog.text END,
        CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM tree JOIN pg_catalog.pg_attribute a ON a.attrelid = tree.oid AND NOT a.attisdropped
    JOIN LATERAL pg_catalog.aclexplode(a.attacl) AS g ON true
    UNION ALL
    SELECT 6, tree.oid, CASE WHEN d.objsubid = 0
        THEN pg_catalog.format('COMMENT ON TABLE %s IS %L', tree.oid::pg_catalog.regclass, d.description)
        ELSE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', tree.oid::pg_catalog.regclass, a.attname, d.description) END
    FROM tree JOIN pg_catalog.pg_description d ON (d.objoid, d.classoid) = (tree.oid, 'pg_catalog.pg_class'::pg_catalog.regclass)
    LEFT JOIN pg_catalog.pg_attribute a ON (a.attrelid, a.attnum) = (d.objoid, d.objsubid)
) AS statements WHERE statement IS NOT NULL ORDER BY step, oid";

/// The table's schema with its owner, and with the rights of the table's owner: run by the server itself.
const SCHEMA: &str = "
SELECT pg_catalog.format('CREATE SCHEMA %I AUTHORIZATION %s', n.nspname, n.nspowner::pg_catalog.regrole)
    || coalesce((SELECT pg_catalog.string_agg(pg_catalog.format('; GRANT %s ON SCHEMA %I TO %s', g.privilege_type, n.nspname,
                     CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::pg_catalog.regrole::pg_catalog.text END), '')
                 FROM pg_catalog.aclexplode(n.nspacl) AS g
                 WHERE g.grantee = 0 OR g.grantee <> n.nspowner AND pg_catalog.pg_has_role(r.relowner, g.grantee, 'USAGE')), '') AS statement
FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = $1";

/// What the other nodes run ahead of the record that replicates the table.
pub fn statements(relation: &Relation) -> Result<Vec<DdlStatement>, UserError> {
    let _settings = FixedSettings::for_definitions();
    let oid = relation.oid();
    // SAFETY: inside a transaction; the owner of a relation exists.
    let owner = unsafe { crate::pg::relcache::c_text(pg_sys::GetUserNameFromId(relation.class().relowner, false)) };
    let one = |text: String, role: &str| {
        let mut statement = environment::capture(text, false);
        statement.role = role.to_owned();
        statement
    };
    let mut all = Vec::new();
    // As a whole, or not at all where there is one of this name.
    if let Some(text) = texts(SCHEMA, oid)?.pop() {
        let mut schema = one(text, "");
        schema.only_without = format!("SCHEMA {}", pgrx::spi::quote_identifier(relation.schema()));
        all.push(schema);
    }
    let mut whole = one(texts(&format!("{TREE}{ESSENTIAL}"), oid)?.join(";\n"), &owner);
    whole.of_group = true;
    whole.only_without = qualified(&relation.schema(), &relation.name());
    all.push(whole);
    all.extend(
        texts(&format!("{TREE}{REST}"), oid)?
            .into_iter()
            .map(|text| one(text, &owner)),
    );
    Ok(all)
}

fn texts(query: &str, oid: pg_sys::Oid) -> Result<Vec<String>, UserError> {
    let query = format!("SELECT pg_catalog.array_agg(statement) FROM ({query}) AS ordered");
    pgrx::Spi::get_one_with_args::<Vec<String>>(&query, &[oid.into()])
        .map(Option::unwrap_or_default)
        .map_err(|error| {
            UserError::new(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("could not read how the table is defined: {error}"),
                "",
                "",
            )
        })
}
