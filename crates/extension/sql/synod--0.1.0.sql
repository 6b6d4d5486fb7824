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
    'replicates a table, with the rows that it has and its partitions or heirs, to all nodes of the group; where it exists it must be defined alike and empty, elsewhere it is created (heirs are not)';
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
      FROM synod.replicated_table AS t
     WHERE t.relation OPERATOR(pg_catalog.<>) pg_catalog.to_regclass('synod.gapless');
COMMENT ON VIEW synod.tables IS 'the tables that are replicated';
COMMENT ON COLUMN synod.tables.table_name IS 'the table on this node';
COMMENT ON COLUMN synod.tables.table_id IS 'its number, the same on every node';
COMMENT ON COLUMN synod.tables.consistency IS 'strong: every write is ordered by the shared log';
COMMENT ON COLUMN synod.tables.identity IS 'the columns by which rows are found again; NULL: by all of them';
GRANT SELECT ON synod.tables TO PUBLIC;

-- Named logs: src/named_log.rs, src/pg/service/log.rs. Who may append and read is granted by the owner of the database.

CREATE TABLE synod.log_entry (
    log text COLLATE "C" NOT NULL,
    round bigint NOT NULL,
    csn bigint NOT NULL,
    node_id integer NOT NULL,
    appended_at timestamptz NOT NULL,
    value_type regtype NOT NULL,
    value bytea NOT NULL,
    CONSTRAINT log_entry_pkey PRIMARY KEY (log, round)
);
CREATE INDEX log_entry_csn_idx ON synod.log_entry (csn);
COMMENT ON TABLE synod.log_entry IS 'entries of named logs; written by the extension only';
COMMENT ON COLUMN synod.log_entry.log IS 'name of the log';
COMMENT ON COLUMN synod.log_entry.round IS 'counts the entries of a log from 1';
COMMENT ON COLUMN synod.log_entry.csn IS 'position in the shared log; 0: of an earlier group of this database';
COMMENT ON COLUMN synod.log_entry.node_id IS 'the node where it was appended';
COMMENT ON COLUMN synod.log_entry.appended_at IS 'when, by the clock of that node';
COMMENT ON COLUMN synod.log_entry.value_type IS 'bytea, text or jsonb';
COMMENT ON COLUMN synod.log_entry.value IS 'its bytes; of text and jsonb in the encoding of the database';
REVOKE ALL ON TABLE synod.log_entry FROM PUBLIC;
GRANT SELECT ON TABLE synod.log_entry TO synod_admin;

CREATE FUNCTION synod.append(log text, value text, after bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'append_text_wrapper';
COMMENT ON FUNCTION synod.append(text, text, bigint) IS
    'appends an entry to a named log of the group, at once and whatever becomes of the transaction; returns its round. after: only if that is the last round (0: of an empty log), else 40001';
CREATE FUNCTION synod.append(log text, value bytea, after bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'append_bytea_wrapper';
COMMENT ON FUNCTION synod.append(text, bytea, bigint) IS 'as append(text, text, bigint), for bytes';
CREATE FUNCTION synod.append(log text, value jsonb, after bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'append_jsonb_wrapper';
COMMENT ON FUNCTION synod.append(text, jsonb, bigint) IS 'as append(text, text, bigint), for JSON';
CREATE FUNCTION synod.trim_log(log text, before bigint) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'trim_log_wrapper';
COMMENT ON FUNCTION synod.trim_log(text, bigint) IS
    'removes the entries of a named log with rounds below before, on all nodes; the last entry stays in any case';

-- Inlined into the query that calls them, which thereby passes the read barrier.
CREATE FUNCTION synod.log(log text, from_round bigint DEFAULT 1)
    RETURNS TABLE (round bigint, value text, bytes bytea, value_type regtype, node_id integer, appended_at timestamptz, csn bigint)
    LANGUAGE sql STABLE PARALLEL UNSAFE
    BEGIN ATOMIC
        SELECT e.round,
               CASE WHEN e.value_type OPERATOR(pg_catalog.<>) 'pg_catalog.bytea'::pg_catalog.regtype
                    THEN pg_catalog.convert_from(e.value, pg_catalog.getdatabaseencoding()) END,
               e.value, e.value_type, e.node_id, e.appended_at, e.csn
          FROM synod.log_entry AS e
         WHERE e.log OPERATOR(pg_catalog.=) $1 AND e.round OPERATOR(pg_catalog.>=) $2
         ORDER BY e.round;
    END;
COMMENT ON FUNCTION synod.log(text, bigint) IS
    'the entries of a named log from a round on; value is null for bytea, bytes has the bytes of any type';
CREATE FUNCTION synod.last(log text)
    RETURNS TABLE (round bigint, value text, bytes bytea, value_type regtype, node_id integer, appended_at timestamptz, csn bigint)
    LANGUAGE sql STABLE PARALLEL UNSAFE
    BEGIN ATOMIC
        SELECT e.round,
               CASE WHEN e.value_type OPERATOR(pg_catalog.<>) 'pg_catalog.bytea'::pg_catalog.regtype
                    THEN pg_catalog.convert_from(e.value, pg_catalog.getdatabaseencoding()) END,
               e.value, e.value_type, e.node_id, e.appended_at, e.csn
          FROM synod.log_entry AS e
         WHERE e.log OPERATOR(pg_catalog.=) $1
         ORDER BY e.round DESC
         LIMIT 1;
    END;
COMMENT ON FUNCTION synod.last(text) IS 'the last entry of a named log; no row when it has none';
REVOKE ALL ON FUNCTION synod.append(text, text, bigint), synod.append(text, bytea, bigint),
    synod.append(text, jsonb, bigint), synod.trim_log(text, bigint), synod.log(text, bigint), synod.last(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.append(text, text, bigint), synod.append(text, bytea, bigint),
    synod.append(text, jsonb, bigint), synod.trim_log(text, bigint), synod.log(text, bigint), synod.last(text) TO synod_admin;

-- Sequences: src/sequences.rs, src/pg/service/grants.rs

CREATE TABLE synod.sequence_range (
    table_id bigint NOT NULL,
    column_number integer NOT NULL,
    node_id integer NOT NULL,
    first_value bigint NOT NULL,
    last_value bigint NOT NULL,
    csn bigint NOT NULL,
    CONSTRAINT sequence_range_pkey PRIMARY KEY (table_id, column_number, node_id)
);
COMMENT ON TABLE synod.sequence_range IS
    'what each node was granted last of the sequences of replicated tables; written by the extension only';
COMMENT ON COLUMN synod.sequence_range.table_id IS 'the number of the table in the group';
COMMENT ON COLUMN synod.sequence_range.column_number IS 'the column that the sequence feeds, counted from 0';
COMMENT ON COLUMN synod.sequence_range.node_id IS 'the node';
COMMENT ON COLUMN synod.sequence_range.first_value IS 'the first value';
COMMENT ON COLUMN synod.sequence_range.last_value IS 'the last value';
COMMENT ON COLUMN synod.sequence_range.csn IS 'position in the shared log';
REVOKE ALL ON TABLE synod.sequence_range FROM PUBLIC;
GRANT SELECT ON TABLE synod.sequence_range TO synod_admin;

CREATE FUNCTION synod._sequences(
    OUT sequence regclass, OUT table_name regclass, OUT column_name text, OUT granted bigint, OUT first_value bigint,
    OUT last_value bigint, OUT next_value bigint)
    RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'sequences_wrapper';
COMMENT ON FUNCTION synod._sequences() IS 'rows of synod.sequences';
REVOKE ALL ON FUNCTION synod._sequences() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._sequences() TO pg_monitor, synod_admin;
CREATE VIEW synod.sequences AS SELECT * FROM synod._sequences();
COMMENT ON VIEW synod.sequences IS 'the sequences that feed columns of replicated tables';
COMMENT ON COLUMN synod.sequences.sequence IS 'the sequence on this node';
COMMENT ON COLUMN synod.sequences.table_name IS 'the table';
COMMENT ON COLUMN synod.sequences.column_name IS 'the column';
COMMENT ON COLUMN synod.sequences.granted IS 'values up to this one were granted to some node; null: none';
COMMENT ON COLUMN synod.sequences.first_value IS 'first value of the range in use on this node; null: none is in use';
COMMENT ON COLUMN synod.sequences.last_value IS 'its last value';
COMMENT ON COLUMN synod.sequences.next_value IS 'the value that comes next on this node';
GRANT SELECT ON synod.sequences TO pg_monitor, synod_admin;

-- Numbers without gaps: rows of a strong table of the extension's own, so that they are as transactional as any. Replicated
-- when a group is made (src/group/create.rs). Dumped, because what was numbered is dumped, too.

CREATE TABLE synod.gapless (
    name text COLLATE "C" CONSTRAINT gapless_pkey PRIMARY KEY,
    last_value bigint NOT NULL
);
COMMENT ON TABLE synod.gapless IS 'the last number of each name that was given to synod.next_gapless';
COMMENT ON COLUMN synod.gapless.name IS 'the name';
COMMENT ON COLUMN synod.gapless.last_value IS 'its last number';
REVOKE ALL ON TABLE synod.gapless FROM PUBLIC;
GRANT SELECT ON TABLE synod.gapless TO synod_admin;
SELECT pg_catalog.pg_extension_config_dump('synod.gapless', '');

CREATE FUNCTION synod.next_gapless(name text) RETURNS bigint
    LANGUAGE sql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        INSERT INTO synod.gapless AS g (name, last_value) VALUES ($1, 1)
            ON CONFLICT (name) DO UPDATE SET last_value = g.last_value OPERATOR(pg_catalog.+) 1
            RETURNING g.last_value;
    END;
COMMENT ON FUNCTION synod.next_gapless(text) IS
    'the next number of this name, from 1, in the whole group; a rollback gives it back. Transactions that ask for the same name run one after the other, those of other nodes fail with 40001';
REVOKE ALL ON FUNCTION synod.next_gapless(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.next_gapless(text) TO synod_admin;

CREATE FUNCTION synod._replicate_own_tables() RETURNS void
    LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'replicate_own_tables_wrapper';
COMMENT ON FUNCTION synod._replicate_own_tables() IS 'internal: makes tables of the extension strong in a new group';
REVOKE ALL ON FUNCTION synod._replicate_own_tables() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._replicate_own_tables() TO synod_admin, synod_replicator;

-- What a node is doing: src/status.rs

CREATE FUNCTION synod._nodes(
    OUT node_id integer, OUT name text, OUT dsn text, OUT voter boolean, OUT is_local boolean, OUT is_leader boolean,
    OUT durable bigint, OUT server_version integer)
    RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'nodes_wrapper';
COMMENT ON FUNCTION synod._nodes() IS 'rows of synod.nodes';
CREATE VIEW synod.nodes AS SELECT * FROM synod._nodes();
COMMENT ON VIEW synod.nodes IS 'the members of this database''s group, as its shared log last said';
COMMENT ON COLUMN synod.nodes.node_id IS 'never used again after the node has left';
COMMENT ON COLUMN synod.nodes.name IS 'unique in the group';
COMMENT ON COLUMN synod.nodes.dsn IS 'how the other nodes reach it, without the password';
COMMENT ON COLUMN synod.nodes.voter IS 'counts for the majority; a node that joins gets its vote when it has caught up';
COMMENT ON COLUMN synod.nodes.is_local IS 'this node';
COMMENT ON COLUMN synod.nodes.is_leader IS 'the leader of the shared log, as far as this node knows';
COMMENT ON COLUMN synod.nodes.durable IS 'position up to which it is known to have the log on disk; null when this node does not know';
COMMENT ON COLUMN synod.nodes.server_version IS 'its server_version_num when it became a member';

CREATE FUNCTION synod._stat_log(
    OUT state text, OUT reason text, OUT leader integer, OUT round bigint, OUT quorum boolean, OUT proposed bigint,
    OUT durable bigint, OUT chosen bigint, OUT certified bigint, OUT trimmed bigint, OUT incarnation bigint,
    OUT proposals bigint, OUT batches bigint, OUT proposed_bytes bigint, OUT committed bigint, OUT conflicts bigint,
    OUT detached bigint)
    RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'stat_log_wrapper';
COMMENT ON FUNCTION synod._stat_log() IS 'rows of synod.stat_log';
CREATE VIEW synod.stat_log AS SELECT * FROM synod._stat_log();
COMMENT ON VIEW synod.stat_log IS 'one row: the shared log as this node sees it, and what this node has put into it since its start';
COMMENT ON COLUMN synod.stat_log.state IS 'starting, running or stopped';
COMMENT ON COLUMN synod.stat_log.reason IS 'why it stopped';
COMMENT ON COLUMN synod.stat_log.leader IS 'node id of the known leader';
COMMENT ON COLUMN synod.stat_log.round IS 'grows with every election';
COMMENT ON COLUMN synod.stat_log.quorum IS 'a majority is reachable: writes and strong reads go on';
COMMENT ON COLUMN synod.stat_log.proposed IS 'highest position known here';
COMMENT ON COLUMN synod.stat_log.durable IS 'on this node''s disk up to here';
COMMENT ON COLUMN synod.stat_log.chosen IS 'decided by the group up to here';
COMMENT ON COLUMN synod.stat_log.certified IS 'verdicts given up to here';
COMMENT ON COLUMN synod.stat_log.trimmed IS 'everything below was given up by this node';
COMMENT ON COLUMN synod.stat_log.incarnation IS 'number of this start of the node';
COMMENT ON COLUMN synod.stat_log.proposals IS 'entries proposed by this node';
COMMENT ON COLUMN synod.stat_log.batches IS 'rounds in which they were proposed';
COMMENT ON COLUMN synod.stat_log.proposed_bytes IS 'their size';
COMMENT ON COLUMN synod.stat_log.committed IS 'transactions of this node committed through the log';
COMMENT ON COLUMN synod.stat_log.conflicts IS 'transactions of this node that lost certification (40001)';
COMMENT ON COLUMN synod.stat_log.detached IS 'transactions of this node whose wait was given up (08007)';

CREATE FUNCTION synod._stat_apply(
    OUT state text, OUT reason text, OUT applied_csn bigint, OUT decided_csn bigint, OUT applied_records bigint,
    OUT applied_rows bigint, OUT gave_way bigint, OUT gave_way_committed bigint, OUT gave_way_unknown bigint,
    OUT pid integer)
    RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'stat_apply_wrapper';
COMMENT ON FUNCTION synod._stat_apply() IS 'rows of synod.stat_apply';
CREATE VIEW synod.stat_apply AS SELECT * FROM synod._stat_apply();
COMMENT ON VIEW synod.stat_apply IS 'one row: how far this node has applied the shared log';
COMMENT ON COLUMN synod.stat_apply.state IS 'starting, running or stopped';
COMMENT ON COLUMN synod.stat_apply.reason IS 'why it stopped; it goes on by itself when the cause is gone';
COMMENT ON COLUMN synod.stat_apply.applied_csn IS 'every commit up to this one is visible here';
COMMENT ON COLUMN synod.stat_apply.decided_csn IS 'the last commit that the group has decided, as far as known here';
COMMENT ON COLUMN synod.stat_apply.applied_records IS 'transactions of other nodes applied since the start';
COMMENT ON COLUMN synod.stat_apply.applied_rows IS 'rows in them';
COMMENT ON COLUMN synod.stat_apply.gave_way IS 'local transactions that had to give way because they held a lock that apply needed (40001, unless the next two say otherwise)';
COMMENT ON COLUMN synod.stat_apply.gave_way_committed IS 'those that the group had decided to commit already: told so with 08007, applied like those of other nodes';
COMMENT ON COLUMN synod.stat_apply.gave_way_unknown IS 'those that the shared log did not decide within synod.lock_grace (08007)';
COMMENT ON COLUMN synod.stat_apply.pid IS 'process id of the apply worker';
GRANT SELECT ON synod.nodes, synod.stat_log, synod.stat_apply TO pg_monitor, synod_admin;
GRANT SELECT ON synod.stat_apply TO synod_replicator;
REVOKE ALL ON FUNCTION synod._nodes(), synod._stat_log(), synod._stat_apply() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._nodes(), synod._stat_log(), synod._stat_apply() TO pg_monitor, synod_admin;
GRANT EXECUTE ON FUNCTION synod._stat_apply() TO synod_replicator;

CREATE FUNCTION synod.applied_csn() RETURNS bigint LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'applied_csn_wrapper';
COMMENT ON FUNCTION synod.applied_csn() IS 'every commit of the group up to this CSN is visible on this node';
CREATE FUNCTION synod.last_csn() RETURNS bigint LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'last_csn_wrapper';
COMMENT ON FUNCTION synod.last_csn() IS
    'CSN of the last transaction that this session committed through the shared log; null if there is none';
CREATE FUNCTION synod.wait_for(csn bigint) RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'wait_for_wrapper';
COMMENT ON FUNCTION synod.wait_for(bigint) IS
    'wait until this node has applied the commit with this CSN, at most synod.read_timeout';
CREATE FUNCTION synod.current_transaction_id() RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'current_transaction_id_wrapper';
COMMENT ON FUNCTION synod.current_transaction_id() IS
    'name of this transaction in the group, for synod.transaction_status after an unknown outcome (08007)';
CREATE FUNCTION synod.transaction_status(id text) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'transaction_status_wrapper';
COMMENT ON FUNCTION synod.transaction_status(text) IS
    'committed, aborted, in progress, or unknown (no longer in the log of this node); the same on every node, but of one that never reached the log only its own node says aborted';

-- Groups: src/group.rs. They act on files, other nodes and tables of any owner, hence SECURITY DEFINER.

CREATE FUNCTION synod.create_group(name text, node text, dsn text) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'create_group_wrapper';
COMMENT ON FUNCTION synod.create_group(text, text, text) IS
    'makes a new group whose only node is this database, reached by the other nodes through dsn';
REVOKE ALL ON FUNCTION synod.create_group(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.create_group(text, text, text) TO synod_admin;

CREATE FUNCTION synod.join_group(via text, node text, dsn text) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'join_group_wrapper';
COMMENT ON FUNCTION synod.join_group(text, text, text) IS
    'makes this database a node of the group of the node behind via: makes the tables that are missing, copies their rows, then follows';
REVOKE ALL ON FUNCTION synod.join_group(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.join_group(text, text, text) TO synod_admin;

CREATE FUNCTION synod.rejoin_group(via text DEFAULT NULL) RETURNS void
    LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rejoin_group_wrapper';
COMMENT ON FUNCTION synod.rejoin_group(text) IS
    'gives a node whose log has stopped for good a fresh copy of the group''s tables; via: a member to copy from, by default any';
REVOKE ALL ON FUNCTION synod.rejoin_group(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.rejoin_group(text) TO synod_admin;

CREATE FUNCTION synod.leave_group(force boolean DEFAULT false) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'leave_group_wrapper';
COMMENT ON FUNCTION synod.leave_group(boolean) IS
    'ends this database''s membership; its tables keep their rows. force: without telling the group';
REVOKE ALL ON FUNCTION synod.leave_group(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.leave_group(boolean) TO synod_admin;

CREATE FUNCTION synod.remove_node(node text) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'remove_node_wrapper';
COMMENT ON FUNCTION synod.remove_node(text) IS 'takes another node out of the group';
REVOKE ALL ON FUNCTION synod.remove_node(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.remove_node(text) TO synod_admin;

CREATE FUNCTION synod.alter_node(node text, dsn text) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'alter_node_wrapper';
COMMENT ON FUNCTION synod.alter_node(text, text) IS
    'a node has moved: the others reach it through dsn from now on; callable on any node that runs';
REVOKE ALL ON FUNCTION synod.alter_node(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.alter_node(text, text) TO synod_admin;

CREATE FUNCTION synod._stat_progress_join(
    OUT pid integer, OUT datid oid, OUT phase text, OUT relid oid, OUT tables_total bigint, OUT tables_done bigint,
    OUT bytes_total bigint, OUT bytes_processed bigint, OUT applied_csn bigint, OUT target_csn bigint)
    RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'stat_progress_join_wrapper';
COMMENT ON FUNCTION synod._stat_progress_join() IS 'rows of synod.stat_progress_join';
REVOKE ALL ON FUNCTION synod._stat_progress_join() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._stat_progress_join() TO pg_monitor, synod_admin;
CREATE VIEW synod.stat_progress_join AS
    SELECT s.pid, s.datid, d.datname, s.phase, s.relid, s.tables_total, s.tables_done, s.bytes_total, s.bytes_processed,
           s.applied_csn, s.target_csn
      FROM synod._stat_progress_join() AS s
      LEFT JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.datid;
COMMENT ON VIEW synod.stat_progress_join IS 'one row per database of this server that is becoming a member of a group';
COMMENT ON COLUMN synod.stat_progress_join.pid IS 'process id of the session that runs it';
COMMENT ON COLUMN synod.stat_progress_join.datid IS 'oid of the database';
COMMENT ON COLUMN synod.stat_progress_join.datname IS 'name of the database';
COMMENT ON COLUMN synod.stat_progress_join.phase IS
    'initializing, waiting for admission, creating tables, copying tables, catching up or waiting for vote';
COMMENT ON COLUMN synod.stat_progress_join.relid IS 'oid of the table being copied, in that database';
COMMENT ON COLUMN synod.stat_progress_join.tables_total IS 'tables of the group';
COMMENT ON COLUMN synod.stat_progress_join.tables_done IS 'tables copied';
COMMENT ON COLUMN synod.stat_progress_join.bytes_total IS 'size of the tables at the source';
COMMENT ON COLUMN synod.stat_progress_join.bytes_processed IS
    'bytes received; they are text, so that there may be more or fewer than bytes_total in the end';
COMMENT ON COLUMN synod.stat_progress_join.applied_csn IS 'while catching up: every commit up to this one is visible here';
COMMENT ON COLUMN synod.stat_progress_join.target_csn IS 'while catching up: where it ends';
GRANT SELECT ON synod.stat_progress_join TO pg_monitor, synod_admin;

-- What nodes ask each other, and themselves through their own dsn, while one of them joins: src/group/

CREATE FUNCTION synod._node_facts(
    OUT library text, OUT protocol integer, OUT system_identifier text, OUT database bigint,
    OUT server_version integer, OUT encoding text, OUT preloaded boolean, OUT free_origins bigint,
    OUT group_id text, OUT group_name text, OUT node_id integer, OUT node_name text)
    RETURNS SETOF record LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'node_facts_wrapper';
COMMENT ON FUNCTION synod._node_facts() IS 'internal: versions and identity of this database';
REVOKE ALL ON FUNCTION synod._node_facts() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._node_facts() TO synod_admin, synod_replicator, pg_monitor;

CREATE FUNCTION synod._check_new(name text, system_identifier text, database bigint) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'check_new_node_wrapper';
COMMENT ON FUNCTION synod._check_new(text, text, bigint) IS 'internal: whether a node of this name can be admitted';
REVOKE ALL ON FUNCTION synod._check_new(text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._check_new(text, text, bigint) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._admit(
    log uuid, info bytea, replace boolean, proof bytea, OUT node_id integer, OUT secret bytea, OUT membership bytea)
    RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'admit_wrapper';
COMMENT ON FUNCTION synod._admit(uuid, bytea, boolean, bytea) IS
    'internal: makes a database a learner of the group, for synod_admin or a node that proves that it has the group''s secret';
REVOKE ALL ON FUNCTION synod._admit(uuid, bytea, boolean, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._admit(uuid, bytea, boolean, bytea) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._promote(node_id integer) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'promote_wrapper';
COMMENT ON FUNCTION synod._promote(integer) IS 'internal: gives a learner its vote; NULL, or why not yet';
REVOKE ALL ON FUNCTION synod._promote(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._promote(integer) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._expel(log uuid, proof bytea) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'expel_wrapper';
COMMENT ON FUNCTION synod._expel(uuid, bytea) IS
    'internal: takes out a node whose joining failed, for synod_admin or a node that proves that it has the group''s secret';
REVOKE ALL ON FUNCTION synod._expel(uuid, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._expel(uuid, bytea) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._is_member(group_id text, node_id integer) RETURNS boolean
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'is_member_wrapper';
COMMENT ON FUNCTION synod._is_member(text, integer) IS 'internal: whether the group still has a node';
REVOKE ALL ON FUNCTION synod._is_member(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._is_member(text, integer) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._certification_checkpoint() RETURNS bytea
    LANGUAGE c AS 'MODULE_PATHNAME', 'certification_checkpoint_wrapper';
COMMENT ON FUNCTION synod._certification_checkpoint() IS
    'internal: the state of certification at a position that is applied here';
REVOKE ALL ON FUNCTION synod._certification_checkpoint() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._certification_checkpoint() TO synod_admin, synod_replicator;

CREATE FUNCTION synod._export_snapshot(OUT snapshot text, OUT csn bigint)
    RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'export_snapshot_wrapper';
COMMENT ON FUNCTION synod._export_snapshot() IS 'internal: a snapshot of exactly the state after a CSN';
REVOKE ALL ON FUNCTION synod._export_snapshot() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._export_snapshot() TO synod_admin, synod_replicator;

CREATE FUNCTION synod._table_definition(table_id bigint, relation oid) RETURNS bytea
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'replicated_definition_wrapper';
COMMENT ON FUNCTION synod._table_definition(bigint, oid) IS 'internal: the definition of a replicated table';
REVOKE ALL ON FUNCTION synod._table_definition(bigint, oid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._table_definition(bigint, oid) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._check_tables(via text, node text, replace boolean) RETURNS SETOF text
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'check_tables_wrapper';
COMMENT ON FUNCTION synod._check_tables(text, text, boolean) IS
    'internal: refuses tables of the group that are not alike and empty here; those that are missing';
REVOKE ALL ON FUNCTION synod._check_tables(text, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._check_tables(text, text, boolean) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._release_tables() RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'release_tables_wrapper';
COMMENT ON FUNCTION synod._release_tables() IS
    'internal: makes the replicated tables of a node that was set aside ordinary ones';
REVOKE ALL ON FUNCTION synod._release_tables() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._release_tables() TO synod_admin, synod_replicator;

CREATE FUNCTION synod._copy_tables(via text, snapshot text, node text, csn bigint, replace boolean) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'copy_tables_wrapper';
COMMENT ON FUNCTION synod._copy_tables(text, text, text, bigint, boolean) IS
    'internal: copies the tables of the group as of a CSN and replicates them from then on';
REVOKE ALL ON FUNCTION synod._copy_tables(text, text, text, bigint, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._copy_tables(text, text, text, bigint, boolean) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._set_origin(csn bigint) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'set_origin_wrapper';
COMMENT ON FUNCTION synod._set_origin(bigint) IS 'internal: makes what carries the applied CSN';
REVOKE ALL ON FUNCTION synod._set_origin(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._set_origin(bigint) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._release_origin() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'release_origin_wrapper';
COMMENT ON FUNCTION synod._release_origin() IS 'internal: gives the applied CSN to the apply worker';
REVOKE ALL ON FUNCTION synod._release_origin() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._release_origin() TO synod_admin, synod_replicator;

CREATE FUNCTION synod._forget(copied boolean) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'forget_wrapper';
COMMENT ON FUNCTION synod._forget(boolean) IS 'internal: undoes a failed attempt to become a node';
REVOKE ALL ON FUNCTION synod._forget(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._forget(boolean) TO synod_admin, synod_replicator;

GRANT SELECT ON TABLE synod.replicated_table TO synod_admin, synod_replicator;

-- Comparing and repairing tables, by the command synod: src/comparison.rs, src/pg/hold.rs

CREATE FUNCTION synod._hold(milliseconds integer) RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'hold_node_wrapper';
COMMENT ON FUNCTION synod._hold(integer) IS
    'internal: nothing more commits on this node until the transaction ends, at most for so long; the CSN where it is';
REVOKE ALL ON FUNCTION synod._hold(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._hold(integer) TO synod_admin;

CREATE FUNCTION synod._advance(csn bigint) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'advance_node_wrapper';
COMMENT ON FUNCTION synod._advance(bigint) IS 'internal: lets the held node go on to a CSN and no further';
REVOKE ALL ON FUNCTION synod._advance(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._advance(bigint) TO synod_admin;

CREATE FUNCTION synod._snapshot_at(csn bigint) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'snapshot_at_wrapper';
COMMENT ON FUNCTION synod._snapshot_at(bigint) IS 'internal: a snapshot of exactly the state after the CSN of the hold';
REVOKE ALL ON FUNCTION synod._snapshot_at(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._snapshot_at(bigint) TO synod_admin;

CREATE FUNCTION synod._release() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'release_node_wrapper';
COMMENT ON FUNCTION synod._release() IS 'internal: ends the hold of this transaction';
REVOKE ALL ON FUNCTION synod._release() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._release() TO synod_admin;

CREATE FUNCTION synod._begin_repair("table" oid, csn bigint) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'begin_repair_wrapper';
COMMENT ON FUNCTION synod._begin_repair(oid, bigint) IS
    'internal: until the transaction ends its writes to this table mend rows of this node only';
REVOKE ALL ON FUNCTION synod._begin_repair(oid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._begin_repair(oid, bigint) TO synod_admin;

CREATE FUNCTION synod._put_row("row" record) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'put_row_wrapper';
COMMENT ON FUNCTION synod._put_row(record) IS
    'internal: writes a row into the table that this transaction repairs, values of generated columns included';
REVOKE ALL ON FUNCTION synod._put_row(record) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._put_row(record) TO synod_admin;

CREATE FUNCTION synod._travelling_form(value anyelement) RETURNS bytea
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'travelling_form_wrapper';
COMMENT ON FUNCTION synod._travelling_form(anyelement) IS 'internal: a value as it travels between nodes';
REVOKE ALL ON FUNCTION synod._travelling_form(anyelement) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._travelling_form(anyelement) TO synod_admin, synod_replicator;

CREATE FUNCTION synod._of_travelling_form(form bytea, of_type anyelement) RETURNS anyelement
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'of_travelling_form_wrapper';
COMMENT ON FUNCTION synod._of_travelling_form(bytea, anyelement) IS
    'internal: the value that travelled so, of the type of the second argument, whose checks are not made again';
REVOKE ALL ON FUNCTION synod._of_travelling_form(bytea, anyelement) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._of_travelling_form(bytea, anyelement) TO synod_admin;

CREATE FUNCTION synod._disk(OUT log_bytes bigint, OUT free_bytes bigint, OUT total_bytes bigint)
    RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'disk_wrapper';
COMMENT ON FUNCTION synod._disk() IS 'internal: what this node''s shared log takes on disk, and what is left there';
REVOKE ALL ON FUNCTION synod._disk() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod._disk() TO synod_admin, pg_monitor;

-- The change stream, what transactions tell it: src/context.rs, src/pg/context/, src/pg/stream_ddl.rs

CREATE FUNCTION synod.set_context(context jsonb) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'set_context_wrapper';
COMMENT ON FUNCTION synod.set_context(jsonb) IS
    'says something about this transaction to readers of the change stream: adds the object''s names to those of synod.context, until the end of the transaction or savepoint. NULL: forgets all of them. For changes that come after it';

-- Replication slots: who reads, and what WAL waits for them. Of the whole server, because its disk is one.

CREATE VIEW synod.stat_slots AS
    SELECT s.slot_name::pg_catalog.text AS slot_name,
           s.slot_type,
           s.plugin::pg_catalog.text AS plugin,
           s.database::pg_catalog.text AS database,
           s.active,
           s.active_pid AS pid,
           a.application_name,
           a.client_addr,
           pg_catalog.pg_wal_lsn_diff(w.here, s.restart_lsn)::pg_catalog.int8 AS retained_bytes,
           pg_catalog.pg_wal_lsn_diff(w.here, s.confirmed_flush_lsn)::pg_catalog.int8 AS lag_bytes,
           s.restart_lsn,
           s.confirmed_flush_lsn,
           s.wal_status,
           s.safe_wal_size,
           (pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'inactive_since')::pg_catalog.timestamptz AS inactive_since,
           pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'invalidation_reason' AS invalidation_reason,
           pg_catalog.age(s.xmin) AS xmin_age,
           pg_catalog.age(s.catalog_xmin) AS catalog_xmin_age
      FROM pg_catalog.pg_replication_slots AS s
      LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) s.active_pid
     CROSS JOIN (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                             ELSE pg_catalog.pg_current_wal_lsn() END) AS w (here);
COMMENT ON VIEW synod.stat_slots IS 'one row per replication slot of this server: who reads it, and what the server keeps for it';
COMMENT ON COLUMN synod.stat_slots.slot_name IS 'its name';
COMMENT ON COLUMN synod.stat_slots.slot_type IS 'logical or physical';
COMMENT ON COLUMN synod.stat_slots.plugin IS 'output plugin of a logical slot';
COMMENT ON COLUMN synod.stat_slots.database IS 'database of a logical slot';
COMMENT ON COLUMN synod.stat_slots.active IS 'somebody reads it';
COMMENT ON COLUMN synod.stat_slots.pid IS 'process that serves the reader';
COMMENT ON COLUMN synod.stat_slots.application_name IS 'what the reader calls itself';
COMMENT ON COLUMN synod.stat_slots.client_addr IS 'where the reader is; null: on this machine';
COMMENT ON COLUMN synod.stat_slots.retained_bytes IS 'WAL from restart_lsn to now: it stays on disk for this slot';
COMMENT ON COLUMN synod.stat_slots.lag_bytes IS 'WAL that the reader has not confirmed';
COMMENT ON COLUMN synod.stat_slots.restart_lsn IS 'WAL from here on is kept';
COMMENT ON COLUMN synod.stat_slots.confirmed_flush_lsn IS 'the reader has confirmed up to here';
COMMENT ON COLUMN synod.stat_slots.wal_status IS
    'reserved; extended: more than max_wal_size is kept; unreserved: it can be gone at the next checkpoint; lost: the slot is useless';
COMMENT ON COLUMN synod.stat_slots.safe_wal_size IS 'bytes that can still be written before WAL is taken from the slot; null: no limit';
COMMENT ON COLUMN synod.stat_slots.inactive_since IS 'nobody has read it since then (from PostgreSQL 17 on)';
COMMENT ON COLUMN synod.stat_slots.invalidation_reason IS 'why it is lost (from PostgreSQL 17 on)';
COMMENT ON COLUMN synod.stat_slots.xmin_age IS 'transactions since the oldest one whose dead rows it keeps from VACUUM';
COMMENT ON COLUMN synod.stat_slots.catalog_xmin_age IS 'the same for the catalogs, of a logical slot';
GRANT SELECT ON synod.stat_slots TO pg_monitor, synod_admin;

-- Auditing: src/audit.rs, src/pg/audit/. Of this node alone: every node of a group audits for itself.

CREATE TABLE synod.audited (
    relation oid CONSTRAINT audited_pkey PRIMARY KEY,
    since pg_lsn NOT NULL,
    until pg_lsn
);
COMMENT ON TABLE synod.audited IS 'tables that are audited on this node; written by the extension only';
COMMENT ON COLUMN synod.audited.relation IS 'the table';
COMMENT ON COLUMN synod.audited.since IS 'transactions that commit from here on count';
COMMENT ON COLUMN synod.audited.until IS 'those that commit from here on do not; null: auditing goes on';
REVOKE ALL ON TABLE synod.audited FROM PUBLIC;
GRANT SELECT ON TABLE synod.audited TO synod_admin, pg_monitor;

CREATE TABLE synod.audit_state (
    slot_name name CONSTRAINT audit_state_pkey PRIMARY KEY,
    position pg_lsn NOT NULL,
    reason text,
    hint text,
    failed_at timestamptz,
    one_by_one_until pg_lsn
);
COMMENT ON TABLE synod.audit_state IS 'one row while this node audits: how far; written by the extension only';
COMMENT ON COLUMN synod.audit_state.slot_name IS 'the replication slot';
COMMENT ON COLUMN synod.audit_state.position IS 'what committed before is in synod.audit';
COMMENT ON COLUMN synod.audit_state.reason IS 'why auditing cannot go on; it tries again by itself';
COMMENT ON COLUMN synod.audit_state.hint IS 'what can be done';
COMMENT ON COLUMN synod.audit_state.failed_at IS 'when that happened last';
COMMENT ON COLUMN synod.audit_state.one_by_one_until IS 'up to here each transaction is read by itself, to find the one that cannot be audited';
REVOKE ALL ON TABLE synod.audit_state FROM PUBLIC;
GRANT SELECT ON TABLE synod.audit_state TO synod_admin, pg_monitor;

CREATE TABLE synod.audit (
    event_id text COLLATE "C" CONSTRAINT audit_pkey PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    table_name text NOT NULL,
    relation oid NOT NULL,
    operation text NOT NULL,
    user_name text,
    role_name text,
    application_name text,
    client_addr inet,
    session_id text,
    context jsonb,
    key jsonb,
    old_row jsonb,
    new_row jsonb,
    xid bigint NOT NULL,
    commit_lsn pg_lsn NOT NULL,
    partition text
);
CREATE INDEX audit_changed_at_idx ON synod.audit (changed_at);
CREATE INDEX audit_relation_idx ON synod.audit (relation, changed_at);
COMMENT ON TABLE synod.audit IS 'changes of audited tables, as committed; written by the extension only';
COMMENT ON COLUMN synod.audit.event_id IS 'names the change for ever; of a strong table the same on every node of the group';
COMMENT ON COLUMN synod.audit.changed_at IS 'when its transaction committed on this node';
COMMENT ON COLUMN synod.audit.table_name IS 'the table as it was called then; of rows in partitions of an audited table, that one';
COMMENT ON COLUMN synod.audit.relation IS 'the table''s oid';
COMMENT ON COLUMN synod.audit.operation IS 'INSERT, UPDATE, DELETE or TRUNCATE';
COMMENT ON COLUMN synod.audit.user_name IS 'who logged in; null: a process of the server';
COMMENT ON COLUMN synod.audit.role_name IS 'whose rights counted (current_user)';
COMMENT ON COLUMN synod.audit.application_name IS 'what the client calls itself';
COMMENT ON COLUMN synod.audit.client_addr IS 'where the client was; null: a Unix socket';
COMMENT ON COLUMN synod.audit.session_id IS 'of the session, as %c in log_line_prefix';
COMMENT ON COLUMN synod.audit.context IS 'what the application said: synod.context, synod.set_context';
COMMENT ON COLUMN synod.audit.key IS 'the primary key; of an update that changed it, the new one';
COMMENT ON COLUMN synod.audit.old_row IS 'the row before: all of it with REPLICA IDENTITY FULL, else what identifies it';
COMMENT ON COLUMN synod.audit.new_row IS 'the row after';
COMMENT ON COLUMN synod.audit.xid IS 'the transaction on this node';
COMMENT ON COLUMN synod.audit.commit_lsn IS 'where its commit stands in the WAL of this node';
COMMENT ON COLUMN synod.audit.partition IS 'the partition that has the row, if the audited table is one above it';
REVOKE ALL ON TABLE synod.audit FROM PUBLIC;
GRANT SELECT ON TABLE synod.audit TO synod_admin;
SELECT pg_catalog.pg_extension_config_dump('synod.audit', '');

CREATE TABLE synod.audit_gaps (
    began pg_lsn NOT NULL,
    ended pg_lsn NOT NULL,
    reason text NOT NULL,
    noted_by text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE synod.audit_gaps IS 'what synod.audit lacks: changes that committed in these parts of the WAL; written by the extension only';
COMMENT ON COLUMN synod.audit_gaps.began IS 'what committed before is in synod.audit';
COMMENT ON COLUMN synod.audit_gaps.ended IS 'what committed from here on is, too';
COMMENT ON COLUMN synod.audit_gaps.reason IS 'why auditing could not go on';
COMMENT ON COLUMN synod.audit_gaps.noted_by IS 'who let it go on, by synod.skip_audit or synod.audit_table';
COMMENT ON COLUMN synod.audit_gaps.noted_at IS 'when';
REVOKE ALL ON TABLE synod.audit_gaps FROM PUBLIC;
GRANT SELECT ON TABLE synod.audit_gaps TO synod_admin, pg_monitor;
SELECT pg_catalog.pg_extension_config_dump('synod.audit_gaps', '');

CREATE FUNCTION synod.audit_table("table" regclass) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'audit_table_wrapper';
COMMENT ON FUNCTION synod.audit_table(regclass) IS
    'writes every change of a table on this node into synod.audit from now on: what, when, by whom. Needs wal_level = logical; the first call of a database makes a replication slot and waits for the transactions that write then';
REVOKE ALL ON FUNCTION synod.audit_table(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.audit_table(regclass) TO synod_admin;

CREATE FUNCTION synod.unaudit_table("table" regclass) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'unaudit_table_wrapper';
COMMENT ON FUNCTION synod.unaudit_table(regclass) IS
    'ends the auditing of a table on this node; synod.audit keeps what it has. With the last table the replication slot goes';
REVOKE ALL ON FUNCTION synod.unaudit_table(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.unaudit_table(regclass) TO synod_admin;

CREATE FUNCTION synod.skip_audit(up_to pg_lsn) RETURNS void
    LANGUAGE c STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'skip_audit_wrapper';
COMMENT ON FUNCTION synod.skip_audit(pg_lsn) IS
    'lets auditing that has stopped go on from up_to, which the hint in synod.stat_audit names. What committed before and is not in synod.audit never will be: synod.audit_gaps says so';
REVOKE ALL ON FUNCTION synod.skip_audit(pg_lsn) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION synod.skip_audit(pg_lsn) TO synod_admin;

CREATE VIEW synod.stat_audit AS
    SELECT a.slot_name::pg_catalog.text AS slot_name,
           CASE WHEN s.slot_name IS NULL OR s.wal_status OPERATOR(pg_catalog.=) 'lost' THEN 'lost'
                WHEN a.reason IS NOT NULL THEN 'stopped' ELSE 'running' END AS state,
           a.reason,
           a.hint,
           a.failed_at,
           a.position,
           s.retained_bytes,
           s.lag_bytes,
           (SELECT pg_catalog.count(*) FROM synod.audited AS t WHERE t.until IS NULL) AS tables
      FROM synod.audit_state AS a
      LEFT JOIN synod.stat_slots AS s ON s.slot_name OPERATOR(pg_catalog.=) a.slot_name::pg_catalog.text
       AND s.database OPERATOR(pg_catalog.=) pg_catalog.current_database();
COMMENT ON VIEW synod.stat_audit IS 'one row while this node audits tables: how far it is';
COMMENT ON COLUMN synod.stat_audit.slot_name IS 'the replication slot that it reads';
COMMENT ON COLUMN synod.stat_audit.state IS 'running; stopped, with a reason, while it tries again; lost: the WAL that it needed is gone (call synod.audit_table again)';
COMMENT ON COLUMN synod.stat_audit.reason IS 'why it cannot go on';
COMMENT ON COLUMN synod.stat_audit.hint IS 'what can be done';
COMMENT ON COLUMN synod.stat_audit.failed_at IS 'when that happened last';
COMMENT ON COLUMN synod.stat_audit.position IS 'what committed before is in synod.audit';
COMMENT ON COLUMN synod.stat_audit.retained_bytes IS 'WAL that is kept for it';
COMMENT ON COLUMN synod.stat_audit.lag_bytes IS 'WAL that it has not read';
COMMENT ON COLUMN synod.stat_audit.tables IS 'tables that are audited';
GRANT SELECT ON synod.stat_audit TO pg_monitor, synod_admin;
