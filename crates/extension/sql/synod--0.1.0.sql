-- Every object has a COMMENT; everything is schema-qualified (the schema is fixed: synod).
-- Sections are owned by the module named in their heading.
\echo Use "CREATE EXTENSION synod" to load this file. \quit

-- Roles (they belong to the whole server and stay when the extension goes)

DO $roles$
BEGIN
    IF pg_catalog.to_regrole('synod_admin') IS NULL THEN
        CREATE ROLE synod_admin NOLOGIN;
        COMMENT ON ROLE synod_admin IS 'may form, join and leave groups and replicate tables';
    END IF;
    IF pg_catalog.to_regrole('synod_replicator') IS NULL THEN
        CREATE ROLE synod_replicator NOLOGIN;
        COMMENT ON ROLE synod_replicator IS 'may be used by the nodes of a group to reach each other';
    END IF;
END
$roles$;

GRANT USAGE ON SCHEMA synod TO PUBLIC;

-- Links between nodes: src/pg/link.rs

CREATE PROCEDURE synod.link(
    protocol_version integer, group_id uuid, from_node integer, to_node integer, nonce bytea)
    LANGUAGE c AS 'MODULE_PATHNAME', 'link_wrapper';
COMMENT ON PROCEDURE synod.link(integer, uuid, integer, integer, bytea) IS
    'called by the nodes of a group to send messages to this one; not for users';
REVOKE ALL ON PROCEDURE synod.link(integer, uuid, integer, integer, bytea) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE synod.link(integer, uuid, integer, integer, bytea) TO synod_replicator;

-- Replicated tables: src/table.rs, src/pg/catalog.rs, src/pg/capture/

CREATE TABLE synod.replicated_table (
    table_id bigint NOT NULL CONSTRAINT replicated_table_pkey PRIMARY KEY,
    relation regclass NOT NULL CONSTRAINT replicated_table_relation_key UNIQUE
);
COMMENT ON TABLE synod.replicated_table IS 'replicated tables of this node; written by the extension only';
COMMENT ON COLUMN synod.replicated_table.table_id IS 'the number of the table in the group';
COMMENT ON COLUMN synod.replicated_table.relation IS 'the table on this node';
REVOKE ALL ON TABLE synod.replicated_table FROM PUBLIC;

CREATE FUNCTION synod.capture() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'synod_capture';
COMMENT ON FUNCTION synod.capture() IS 'notes changes of replicated tables; called by their triggers only';
REVOKE ALL ON FUNCTION synod.capture() FROM PUBLIC;

CREATE FUNCTION synod.replicate_table("table" regclass) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'replicate_table_wrapper';
COMMENT ON FUNCTION synod.replicate_table(regclass) IS
    'replicates a table, with the rows that it has, to all nodes of the group; it must exist there, defined alike and empty';
REVOKE ALL ON FUNCTION synod.replicate_table(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.replicate_table(regclass) TO synod_admin;

CREATE FUNCTION synod.unreplicate_table("table" regclass) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'unreplicate_table_wrapper';
COMMENT ON FUNCTION synod.unreplicate_table(regclass) IS
    'ends the replication of a table on all nodes; each keeps the rows that it has';
REVOKE ALL ON FUNCTION synod.unreplicate_table(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.unreplicate_table(regclass) TO synod_admin;

CREATE FUNCTION synod.table_definition(schema_name text, table_name text)
    RETURNS TABLE (definition bytea, is_empty boolean, is_replicated boolean)
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'table_definition_wrapper';
COMMENT ON FUNCTION synod.table_definition(text, text) IS
    'a table as the nodes of a group compare it; no row when it does not exist; not for users';
REVOKE ALL ON FUNCTION synod.table_definition(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.table_definition(text, text) TO synod_admin, synod_replicator;

CREATE FUNCTION synod.table_identity("table" regclass) RETURNS text[]
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'table_identity_wrapper';
COMMENT ON FUNCTION synod.table_identity(regclass) IS
    'the columns by which rows of a replicated table are found again; NULL when it is the whole row';

CREATE VIEW synod.tables AS
    SELECT t.relation AS table_name,
           t.table_id,
           'strong'::pg_catalog.text AS consistency,
           synod.table_identity(t.relation) AS identity
      FROM synod.replicated_table AS t;
COMMENT ON VIEW synod.tables IS 'the tables that are replicated';
COMMENT ON COLUMN synod.tables.table_name IS 'the table on this node';
COMMENT ON COLUMN synod.tables.table_id IS 'its number, the same on every node';
COMMENT ON COLUMN synod.tables.consistency IS 'strong: every write is ordered by the shared log';
COMMENT ON COLUMN synod.tables.identity IS 'the columns by which rows are found again; NULL: by all of them';
GRANT SELECT ON synod.tables TO PUBLIC;
