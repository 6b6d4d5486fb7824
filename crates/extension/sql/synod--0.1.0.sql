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
