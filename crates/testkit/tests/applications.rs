//! Schemas and statements of applications, run on three nodes at once by clients that retry as documented; what must hold in
//! the end is checked. (pgbench is what the benchmark and the demo run.)

use std::time::Duration;

use postgres::{Error, Transaction};
use synod_testkit::{Cluster, Failure, Options, Outcome, Rng, Session, SharedCluster, assert_converged, sqlstate};

/// The servers' own fsync does not matter here; without it, DDL is fast.
static CLUSTER: SharedCluster = SharedCluster::new(Options {
    settings: &[("fsync", "off")],
    ..Options::DEFAULT
});

const TRANSACTIONS: u32 = 40;

/// Runs `body` on every node at once, [`TRANSACTIONS`] times each, with a number of its own.
fn on_all_nodes(cluster: &Cluster, body: impl Fn(&mut Transaction<'_>, &mut Rng, i32) -> Result<(), Error> + Sync) {
    std::thread::scope(|scope| {
        for node in 0..cluster.len() {
            let body = &body;
            scope.spawn(move || {
                let mut session = Session::new(cluster.server(node));
                session.patience = Duration::from_secs(60);
                let mut rng = Rng::new(node as u64 + 1);
                for round in 0..TRANSACTIONS {
                    let number = (node as u32 * TRANSACTIONS + round) as i32;
                    loop {
                        match session.transact("", |transaction| body(transaction, &mut rng, number)) {
                            Outcome::Committed(()) => break,
                            // Somebody else was first, between its SELECT and its INSERT; as on one server.
                            Outcome::RolledBack(Failure::Permanent(error)) if sqlstate(&error) == Some("23505") => {}
                            other => panic!("transaction {number}: {other:?}"),
                        }
                    }
                }
            });
        }
    });
}

/// Asserts that a query gives `true`, on every node.
#[track_caller]
fn holds(cluster: &Cluster, what: &str, query: &str) {
    for node in cluster.nodes() {
        let row = node
            .server
            .client()
            .query_one(query, &[])
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(row.get::<_, Option<bool>>(0), Some(true), "{what}, on {}", node.name);
    }
}

fn tables_of(schema: &str) -> Vec<&str> {
    let mut words = schema.split_ascii_whitespace();
    let mut tables = Vec::new();
    while let Some(word) = words.next() {
        if word == "CREATE" && words.next() == Some("TABLE") {
            tables.extend(words.next());
        }
    }
    tables
}

const TPCC: &str = "
    CREATE TABLE warehouse (w_id int PRIMARY KEY, w_ytd numeric(12, 2) NOT NULL, w_name varchar(10));
    CREATE TABLE district (d_w_id int REFERENCES warehouse, d_id int, d_ytd numeric(12, 2) NOT NULL, d_next_o_id int NOT NULL, PRIMARY KEY (d_w_id, d_id));
    CREATE TABLE customer (c_w_id int, c_d_id int, c_id int, c_balance numeric(12, 2) NOT NULL, c_data text, PRIMARY KEY (c_w_id, c_d_id, c_id), FOREIGN KEY (c_w_id, c_d_id) REFERENCES district);
    CREATE TABLE history (h_c_id int, h_w_id int, h_d_id int, h_amount numeric(6, 2));
    CREATE TABLE item (i_id int PRIMARY KEY, i_price numeric(5, 2) NOT NULL);
    CREATE TABLE stock (s_w_id int REFERENCES warehouse, s_i_id int REFERENCES item, s_quantity int NOT NULL, s_ytd int NOT NULL DEFAULT 0, PRIMARY KEY (s_w_id, s_i_id));
    CREATE TABLE orders (o_w_id int, o_d_id int, o_id int, o_c_id int, o_ol_cnt int NOT NULL, o_entry_d timestamptz DEFAULT now(), PRIMARY KEY (o_w_id, o_d_id, o_id), FOREIGN KEY (o_w_id, o_d_id, o_c_id) REFERENCES customer);
    CREATE TABLE order_line (ol_w_id int, ol_d_id int, ol_o_id int, ol_number int, ol_i_id int, ol_quantity int, ol_amount numeric(6, 2), PRIMARY KEY (ol_w_id, ol_d_id, ol_o_id, ol_number), FOREIGN KEY (ol_w_id, ol_d_id, ol_o_id) REFERENCES orders, FOREIGN KEY (ol_w_id, ol_i_id) REFERENCES stock);
";

fn new_order(transaction: &mut Transaction<'_>, rng: &mut Rng) -> Result<(), Error> {
    let (w, d, c, lines) = (
        rng.below(2) as i32,
        rng.below(5) as i32,
        rng.below(10) as i32,
        1 + rng.below(5) as i32,
    );
    let order: i32 = transaction
        .query_one(
            "UPDATE district SET d_next_o_id = d_next_o_id + 1 WHERE d_w_id = $1 AND d_id = $2 RETURNING d_next_o_id - 1",
            &[&w, &d],
        )?
        .get(0);
    transaction.execute(
        "INSERT INTO orders (o_w_id, o_d_id, o_id, o_c_id, o_ol_cnt) VALUES ($1, $2, $3, $4, $5)",
        &[&w, &d, &order, &c, &lines],
    )?;
    for line in 1..=lines {
        let item = rng.below(20) as i32;
        transaction.execute(
            "UPDATE stock SET s_quantity = CASE WHEN s_quantity > 10 THEN s_quantity - 1 ELSE s_quantity + 90 END, s_ytd = s_ytd + 1
              WHERE s_w_id = $1 AND s_i_id = $2",
            &[&w, &item],
        )?;
        transaction.execute(
            "INSERT INTO order_line SELECT $1, $2, $3, $4, i_id, 1, i_price FROM item WHERE i_id = $5",
            &[&w, &d, &order, &line, &item],
        )?;
    }
    Ok(())
}

fn payment(transaction: &mut Transaction<'_>, rng: &mut Rng) -> Result<(), Error> {
    let (w, d, c, amount) = (rng.below(2), rng.below(5), rng.below(10), rng.below(500));
    transaction.batch_execute(&format!(
        "UPDATE warehouse SET w_ytd = w_ytd + {amount} WHERE w_id = {w};
         UPDATE district SET d_ytd = d_ytd + {amount} WHERE d_w_id = {w} AND d_id = {d};
         UPDATE customer SET c_balance = c_balance - {amount}, c_data = left(c_data || ' {amount}', 500) WHERE c_w_id = {w} AND c_d_id = {d} AND c_id = {c};
         INSERT INTO history VALUES ({c}, {w}, {d}, {amount})"
    ))
}

#[test]
fn orders_and_payments() {
    let cluster = CLUSTER.lease();
    cluster.on_all(TPCC);
    let tables = tables_of(TPCC);
    cluster.replicate_together(&tables);
    cluster
        .client(0)
        .batch_execute(
            "INSERT INTO warehouse SELECT w, 0, 'w' || w FROM generate_series(0, 1) w;
             INSERT INTO district SELECT w, d, 0, 1 FROM generate_series(0, 1) w, generate_series(0, 4) d;
             INSERT INTO customer SELECT w, d, c, 0, '' FROM generate_series(0, 1) w, generate_series(0, 4) d, generate_series(0, 9) c;
             INSERT INTO item SELECT i, i + 0.5 FROM generate_series(0, 19) i;
             INSERT INTO stock SELECT w, i, 50 FROM generate_series(0, 1) w, generate_series(0, 19) i",
        )
        .unwrap();
    on_all_nodes(&cluster, |transaction, rng, number| {
        if number % 2 == 0 {
            new_order(transaction, rng)
        } else {
            payment(transaction, rng)
        }
    });
    assert_converged(&cluster, &tables);
    for (what, query) in [
        ("orders", "SELECT count(*) = 60 FROM orders"),
        ("payments", "SELECT count(*) = 60 FROM history"),
        (
            "the next number of each district",
            "SELECT bool_and(d_next_o_id = coalesce(n, 0) + 1 AND coalesce(m, 0) = coalesce(n, 0)) FROM district LEFT JOIN
                (SELECT o_w_id, o_d_id, max(o_id) AS m, count(*) AS n FROM orders GROUP BY 1, 2) o ON (o_w_id, o_d_id) = (d_w_id, d_id)",
        ),
        (
            "what warehouses, districts, customers and the history took in",
            "SELECT (SELECT sum(w_ytd) FROM warehouse) = (SELECT sum(d_ytd) FROM district)
                AND (SELECT sum(d_ytd) FROM district) = (SELECT sum(h_amount) FROM history)
                AND (SELECT -sum(c_balance) FROM customer) = (SELECT sum(h_amount) FROM history)",
        ),
        ("lines of orders", "SELECT (SELECT sum(o_ol_cnt) FROM orders) = (SELECT count(*) FROM order_line)"),
        ("what the stock gave", "SELECT (SELECT sum(s_ytd) FROM stock) = (SELECT count(*) FROM order_line)"),
    ] {
        holds(&cluster, what, query);
    }
}

/// As `manage.py migrate` of django.contrib.auth, contenttypes and sessions makes them.
const DJANGO: &str = r#"
    CREATE TABLE "django_migrations" ("id" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "app" varchar(255) NOT NULL, "name" varchar(255) NOT NULL, "applied" timestamp with time zone NOT NULL);
    CREATE TABLE "django_content_type" ("id" integer NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "app_label" varchar(100) NOT NULL, "model" varchar(100) NOT NULL);
    ALTER TABLE "django_content_type" ADD CONSTRAINT "django_content_type_app_label_model_76bd3d3b_uniq" UNIQUE ("app_label", "model");
    CREATE TABLE "auth_permission" ("id" integer NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "name" varchar(255) NOT NULL, "content_type_id" integer NOT NULL, "codename" varchar(100) NOT NULL);
    CREATE TABLE "auth_group" ("id" integer NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "name" varchar(150) NOT NULL UNIQUE);
    CREATE TABLE "auth_user" ("id" integer NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "password" varchar(128) NOT NULL, "last_login" timestamp with time zone NULL, "is_superuser" boolean NOT NULL, "username" varchar(150) NOT NULL UNIQUE, "email" varchar(254) NOT NULL, "is_active" boolean NOT NULL, "date_joined" timestamp with time zone NOT NULL);
    CREATE TABLE "auth_user_groups" ("id" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "user_id" integer NOT NULL, "group_id" integer NOT NULL);
    CREATE TABLE "django_session" ("session_key" varchar(40) NOT NULL PRIMARY KEY, "session_data" text NOT NULL, "expire_date" timestamp with time zone NOT NULL);
    ALTER TABLE "auth_permission" ADD CONSTRAINT "auth_permission_content_type_id_codename_01ab375a_uniq" UNIQUE ("content_type_id", "codename");
    ALTER TABLE "auth_permission" ADD CONSTRAINT "auth_permission_content_type_id_2f476e4b_fk_django_co" FOREIGN KEY ("content_type_id") REFERENCES "django_content_type" ("id") DEFERRABLE INITIALLY DEFERRED;
    CREATE INDEX "auth_permission_content_type_id_2f476e4b" ON "auth_permission" ("content_type_id");
    CREATE INDEX "auth_group_name_a6ea08ec_like" ON "auth_group" ("name" varchar_pattern_ops);
    CREATE INDEX "auth_user_username_6821ab7c_like" ON "auth_user" ("username" varchar_pattern_ops);
    ALTER TABLE "auth_user_groups" ADD CONSTRAINT "auth_user_groups_user_id_group_id_94350c0c_uniq" UNIQUE ("user_id", "group_id");
    ALTER TABLE "auth_user_groups" ADD CONSTRAINT "auth_user_groups_user_id_6a12ed8b_fk_auth_user_id" FOREIGN KEY ("user_id") REFERENCES "auth_user" ("id") DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE "auth_user_groups" ADD CONSTRAINT "auth_user_groups_group_id_97559544_fk_auth_group_id" FOREIGN KEY ("group_id") REFERENCES "auth_group" ("id") DEFERRABLE INITIALLY DEFERRED;
    CREATE INDEX "django_session_session_key_c0390e0f_like" ON "django_session" ("session_key" varchar_pattern_ops);
    CREATE INDEX "django_session_expire_date_a5c62663" ON "django_session" ("expire_date");
"#;

#[test]
fn the_accounts_and_sessions_of_django() {
    let cluster = CLUSTER.lease();
    cluster.on_all(DJANGO);
    let tables = tables_of(DJANGO);
    cluster.replicate_together(&tables);
    cluster
        .client(0)
        .batch_execute(
            r#"INSERT INTO "django_migrations" ("app", "name", "applied") VALUES ('auth', '0001_initial', '2024-01-01T00:00:00+00:00'::timestamptz) RETURNING "django_migrations"."id";
               INSERT INTO "auth_group" ("name") VALUES ('staff'), ('editors');
               INSERT INTO "django_content_type" ("app_label", "model") VALUES ('auth', 'user'), ('auth', 'group') RETURNING "django_content_type"."id";
               INSERT INTO "auth_permission" ("name", "content_type_id", "codename") SELECT 'Can add ' || "model", "id", 'add_' || "model" FROM "django_content_type""#,
        )
        .unwrap();
    on_all_nodes(&cluster, |transaction, rng, number| {
        let name = format!("user{number}");
        let id: i32 = transaction
            .query_one(
                r#"INSERT INTO "auth_user" ("password", "last_login", "is_superuser", "username", "email", "is_active", "date_joined") VALUES ('!', NULL, false, $1, '', true, now()) RETURNING "auth_user"."id""#,
                &[&name],
            )?
            .get(0);
        transaction.batch_execute(r#"SAVEPOINT "s1_x1""#)?;
        let group = 1 + rng.below(2) as i32;
        transaction.execute(
            r#"INSERT INTO "auth_user_groups" ("user_id", "group_id") SELECT $1, "id" FROM "auth_group" WHERE "auth_group"."name" = (ARRAY['staff', 'editors'])[$2] ON CONFLICT DO NOTHING"#,
            &[&id, &group],
        )?;
        transaction.batch_execute(if rng.chance(20) {
            r#"ROLLBACK TO SAVEPOINT "s1_x1""#
        } else {
            r#"RELEASE SAVEPOINT "s1_x1""#
        })?;
        // Session.save(): UPDATE, else INSERT.
        let key = format!("key{}", rng.below(10));
        let data: &[&(dyn postgres::types::ToSql + Sync)] = &[&key, &name];
        let exists = transaction.query(
            r#"SELECT 1 AS "a" FROM "django_session" WHERE "django_session"."session_key" = $1 LIMIT 1"#,
            &data[..1],
        )?;
        if exists.is_empty() {
            transaction.execute(
                r#"INSERT INTO "django_session" ("session_key", "session_data", "expire_date") VALUES ($1, $2, now())"#,
                data,
            )?;
        } else {
            transaction.execute(r#"UPDATE "django_session" SET "session_data" = $2, "expire_date" = now() WHERE "django_session"."session_key" = $1"#, data)?;
        }
        transaction.query(
            r#"SELECT "auth_user"."id" FROM "auth_user" WHERE "auth_user"."id" = $1 LIMIT 21 FOR UPDATE"#,
            &[&id],
        )?;
        transaction.execute(
            r#"UPDATE "auth_user" SET "last_login" = now() WHERE "auth_user"."id" = $1"#,
            &[&id],
        )?;
        if rng.chance(10) {
            // A cascade of the collector's.
            transaction.execute(
                r#"DELETE FROM "auth_user_groups" WHERE "auth_user_groups"."user_id" IN ($1)"#,
                &[&id],
            )?;
            transaction.execute(
                r#"UPDATE "auth_user" SET "is_active" = false WHERE "auth_user"."id" IN ($1)"#,
                &[&id],
            )?;
        }
        Ok(())
    });
    assert_converged(&cluster, &tables);
    holds(
        &cluster,
        "one user for each transaction",
        r#"SELECT count(*) = 120 AND count(DISTINCT id) = 120 AND bool_and(last_login IS NOT NULL) FROM "auth_user""#,
    );
    holds(
        &cluster,
        "no membership without a user",
        r#"SELECT count(*) = 0 FROM "auth_user_groups" g LEFT JOIN "auth_user" u ON u.id = g.user_id WHERE u.is_active IS NOT TRUE"#,
    );
    holds(
        &cluster,
        "sessions",
        r#"SELECT count(*) BETWEEN 1 AND 10 FROM "django_session""#,
    );
}

/// As a `schema.rb` loads them: bigserial ids, timestamps, a counter cache, an enum, jsonb, a polymorphic reference.
const RAILS: &str = r#"
    CREATE TABLE "schema_migrations" ("version" character varying NOT NULL PRIMARY KEY);
    CREATE TABLE "ar_internal_metadata" ("key" character varying NOT NULL PRIMARY KEY, "value" character varying, "created_at" timestamp(6) NOT NULL, "updated_at" timestamp(6) NOT NULL);
    CREATE TYPE "post_state" AS ENUM ('draft', 'published');
    CREATE TABLE "users" ("id" bigserial primary key, "email" character varying NOT NULL, "settings" jsonb DEFAULT '{}' NOT NULL, "lock_version" integer DEFAULT 0 NOT NULL, "created_at" timestamp(6) NOT NULL, "updated_at" timestamp(6) NOT NULL);
    CREATE UNIQUE INDEX "index_users_on_email" ON "users" ("email");
    CREATE UNIQUE INDEX "index_users_on_lower_email" ON "users" (lower("email"));
    CREATE TABLE "posts" ("id" bigserial primary key, "user_id" bigint NOT NULL, "title" character varying, "state" post_state DEFAULT 'draft' NOT NULL, "comments_count" integer DEFAULT 0, "tags" character varying[] DEFAULT '{}', "created_at" timestamp(6) NOT NULL, "updated_at" timestamp(6) NOT NULL, CONSTRAINT "fk_rails_5b5ddfd518" FOREIGN KEY ("user_id") REFERENCES "users" ("id") ON DELETE CASCADE);
    CREATE INDEX "index_posts_on_user_id" ON "posts" ("user_id");
    CREATE INDEX "index_posts_on_tags" ON "posts" USING gin ("tags");
    CREATE TABLE "comments" ("id" bigserial primary key, "subject_type" character varying NOT NULL, "subject_id" bigint NOT NULL, "body" text, "created_at" timestamp(6) NOT NULL, "updated_at" timestamp(6) NOT NULL);
    CREATE INDEX "index_comments_on_subject" ON "comments" ("subject_type", "subject_id");
"#;

#[test]
fn the_records_of_rails() {
    let cluster = CLUSTER.lease();
    cluster.on_all(RAILS);
    let tables = tables_of(RAILS);
    cluster.replicate_together(&tables);
    let mut client = cluster.client(0);
    client
        .batch_execute(
            r#"SELECT pg_try_advisory_lock(2470340134); INSERT INTO "schema_migrations" (version) VALUES ('20240102000000'), ('20240101000000') RETURNING "version"; SELECT pg_advisory_unlock(2470340134);
               INSERT INTO "ar_internal_metadata" ("key", "value", "created_at", "updated_at") VALUES ('environment', 'test', now(), now());
               INSERT INTO "users" ("email", "created_at", "updated_at") SELECT 'u' || i || '@x', now(), now() FROM generate_series(0, 9) i RETURNING "id";
               INSERT INTO "posts" ("user_id", "title", "created_at", "updated_at") SELECT "id", 'first', now(), now() FROM "users""#,
        )
        .unwrap();
    on_all_nodes(&cluster, |transaction, rng, number| {
        let email = format!("u{}@x", rng.below(12));
        // upsert_all
        let user: i64 = transaction
            .query_one(
                r#"INSERT INTO "users" ("email","settings","created_at","updated_at") VALUES ($1, '{"theme": "dark"}', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP) ON CONFLICT ("email") DO UPDATE SET updated_at=(CASE WHEN ("users"."settings" IS NOT DISTINCT FROM excluded."settings") THEN "users".updated_at ELSE CURRENT_TIMESTAMP END),"settings"=excluded."settings" RETURNING "id""#,
                &[&email],
            )?
            .get(0);
        // Optimistic locking.
        let version: i32 = transaction
            .query_one(
                r#"SELECT "users"."lock_version" FROM "users" WHERE "users"."id" = $1 LIMIT 1"#,
                &[&user],
            )?
            .get(0);
        transaction.execute(
            r#"UPDATE "users" SET "lock_version" = $2 + 1 WHERE "users"."id" = $1 AND "users"."lock_version" = $2"#,
            &[&user, &version],
        )?;
        transaction.batch_execute("SAVEPOINT active_record_1")?;
        let post: i64 = transaction
            .query_one(
                r#"INSERT INTO "posts" ("user_id", "title", "tags", "created_at", "updated_at") VALUES ($1, $2, '{a,b}', now(), now()) RETURNING "id""#,
                &[&user, &format!("post {number}")],
            )?
            .get(0);
        transaction.batch_execute("RELEASE SAVEPOINT active_record_1")?;
        for _ in 0..rng.below(3) {
            transaction.execute(r#"INSERT INTO "comments" ("subject_type", "subject_id", "body", "created_at", "updated_at") VALUES ('Post', $1, 'hm', now(), now()) RETURNING "id""#, &[&post])?;
            transaction.execute(
                r#"UPDATE "posts" SET "comments_count" = COALESCE("comments_count", 0) + 1 WHERE "posts"."id" = $1"#,
                &[&post],
            )?;
        }
        transaction.query(
            r#"SELECT "posts".* FROM "posts" WHERE "posts"."id" = $1 LIMIT 1 FOR UPDATE"#,
            &[&post],
        )?;
        transaction.execute(r#"UPDATE "posts" SET "state" = 'published', "updated_at" = now() WHERE "posts"."id" IN (SELECT "posts"."id" FROM "posts" INNER JOIN "users" ON "users"."id" = "posts"."user_id" WHERE "users"."email" = $1 AND "posts"."id" = $2)"#, &[&email, &post])?;
        Ok(())
    });
    assert_converged(&cluster, &tables);
    for (what, query) in [
        (
            "posts",
            r#"SELECT count(*) = 130 AND count(DISTINCT "id") = 130 AND count(*) FILTER (WHERE "state" = 'published') = 120 FROM "posts""#,
        ),
        (
            "the counter cache",
            r#"SELECT (SELECT sum("comments_count") FROM "posts") = (SELECT count(*) FROM "comments")"#,
        ),
        ("lock versions", r#"SELECT sum("lock_version") = 120 FROM "users""#),
    ] {
        holds(&cluster, what, query);
    }
    client
        .batch_execute(r#"DELETE FROM "users" WHERE "users"."email" LIKE 'u%'"#)
        .unwrap();
    holds(&cluster, "the cascade", r#"SELECT count(*) = 0 FROM "posts""#);
    assert_converged(&cluster, &tables);
}
