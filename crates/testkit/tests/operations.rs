//! What operators do: backups, standbys, dumps, roles, passwords, certificates; and what they see while they do it.

use std::path::PathBuf;
use std::time::Duration;

use synod_testkit::{
    Cluster, Ledger, Options, PgInstall, Run, Server, SharedCluster, StopMode, checksum, sqlstate, wait_until,
};

static CLUSTER: SharedCluster = SharedCluster::new(Options {
    nodes: 2,
    ..Options::DEFAULT
});
const DEADLINE: Duration = Duration::from_secs(60);

fn text(server: &Server, query: &str) -> String {
    let row = server.client().query_one(query, &[]);
    row.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// Asserts that the server says that it is a copy, with a way out, and takes no part in the group.
#[track_caller]
fn assert_is_refused(copy: &Server, cluster: &Cluster, how: &str) {
    let mut client = copy.client();
    let error = client
        .batch_execute("SELECT count(*) FROM ledger")
        .expect_err("a copy gives a strong read");
    assert_eq!(sqlstate(&error), Some("55000"), "{error:?}");
    let told = error.as_db_error().unwrap();
    assert!(told.message().contains("is a copy of a member"), "{told:?}");
    assert!(told.detail().unwrap().contains(how), "{told:?}");
    assert!(
        told.hint().unwrap().contains("synod.leave_group(force => true)"),
        "{told:?}"
    );
    client
        .batch_execute("SET synod.read_consistency = local; SELECT count(*) FROM ledger")
        .unwrap();
    let workers = text(
        copy,
        "SELECT count(*)::text FROM pg_stat_activity WHERE backend_type ~ '^synod (log|apply)'",
    );
    assert_eq!(workers, "0", "workers of a copy run");
    cluster
        .client(0)
        .batch_execute("INSERT INTO ledger VALUES ((SELECT max(id) + 1 FROM ledger), 1)")
        .unwrap();
}

#[test]
fn backups_points_in_time_and_standbys_are_no_members_and_can_join() {
    let cluster = Cluster::start(2);
    let ledger = Ledger::on(&cluster);
    ledger.write_until(&cluster, &[0, 1], 10);
    let member = cluster.server(1);

    let mut backup = member.base_backup("backup");
    ledger.write_until(&cluster, &[0, 1], 5);
    backup.start();
    assert_is_refused(&backup, &cluster, "restored from a base backup");
    let error = backup
        .client()
        .batch_execute("INSERT INTO ledger VALUES (-1, 0)")
        .expect_err("a write on a copy");
    assert_eq!(sqlstate(&error), Some("55000"), "{error:?}");
    // The mark outlives the sign: the label is gone after the first start.
    backup.restart(StopMode::Fast);
    assert_is_refused(&backup, &cluster, "restored from a base backup");

    let mut restored = member.base_backup("pitr");
    restored.configure(&[
        ("restore_command", "false"),
        ("recovery_target", "immediate"),
        ("recovery_target_action", "promote"),
    ]);
    std::fs::write(restored.data().join("recovery.signal"), "").unwrap();
    restored.start();
    wait_until(DEADLINE, "the end of recovery", || {
        (text(&restored, "SELECT pg_is_in_recovery()::text") == "false").then_some(())
    });
    assert_is_refused(&restored, &cluster, "restored to a point in time");
    drop(restored);

    let mut standby = member.base_backup("standby");
    let primary = format!(
        "host={} port={} user=postgres",
        member.data().parent().unwrap().display(),
        member.port()
    );
    standby.configure(&[("primary_conninfo", &primary)]);
    std::fs::write(standby.data().join("standby.signal"), "").unwrap();
    standby.start();
    ledger.write_until(&cluster, &[0, 1], 5);
    wait_until(DEADLINE, "the standby to follow", || {
        let mut client = standby.client();
        client.batch_execute("SET synod.read_consistency = local").unwrap();
        (checksum(&mut client, "ledger").unwrap() == checksum(&mut cluster.client(1), "ledger").unwrap()).then_some(())
    });
    assert_is_refused(&standby, &cluster, "started as a standby");
    standby.client().batch_execute("SELECT pg_promote()").unwrap();
    assert_is_refused(&standby, &cluster, "started as a standby");

    // The way back, as documented: the member goes, the copy forgets whose copy it is, and joins as a new node.
    cluster
        .client(0)
        .batch_execute("SELECT synod.remove_node('n2')")
        .unwrap();
    let mut client = standby.client();
    client.batch_execute("SELECT synod.leave_group(force => true)").unwrap();
    client.batch_execute("TRUNCATE ledger").unwrap();
    let (via, dsn) = (cluster.server(0).dsn(), standby.dsn());
    client
        .execute("SELECT synod.join_group($1, 'n3', $2)", &[&via, &dsn])
        .unwrap();
    client.batch_execute("INSERT INTO ledger VALUES (-3, 3)").unwrap();
    wait_until(DEADLINE, "the new node's row", || {
        (checksum(&mut cluster.client(0), "(SELECT * FROM ledger WHERE id = -3)")
            .ok()?
            .0
            == 1)
            .then_some(())
    });
}

#[test]
fn a_dump_of_a_member_is_an_ordinary_database() {
    let cluster = CLUSTER.lease();
    cluster.create_table(
        "dumped",
        "CREATE TABLE dumped (id int PRIMARY KEY, t text, \"No\" serial, n int GENERATED ALWAYS AS IDENTITY)",
    );
    for node in [0, 1] {
        let sql = format!("INSERT INTO dumped VALUES ({node}, E'tw\\\\to')");
        cluster.client(node).batch_execute(&sql).unwrap();
    }
    // Read by the member whose place in the sequences is before what another one has used.
    let here = text(cluster.server(0), "SELECT max(\"No\")::text FROM dumped");
    assert!(here.parse::<i32>().unwrap() > 1000, "{here}");
    let dsn = cluster.server(0).client_dsn("postgres");
    let whole = Run::current().program("pg_dump", &["-d", &dsn]).unwrap();
    let part = Run::current()
        .program("pg_dump", &["-d", &dsn, "-n", "public"])
        .unwrap();
    assert!(whole.contains("CREATE EXTENSION") && !part.contains("CREATE EXTENSION"));
    assert!(!whole.contains("CREATE TRIGGER"), "capture triggers are in the dump");
    let sequences = include_str!("../../../docs/src/operations.md")
        .split("```")
        .find_map(|block| block.strip_prefix("sql\n").filter(|block| block.contains("setval")))
        .unwrap();
    // Neither place has the library preloaded; one gets the extension, one not.
    let mut plain = Server::new("plain", &[("shared_preload_libraries", "")]);
    plain.start();
    for (database, dump) in [("whole", &whole), ("part", &part)] {
        plain
            .client()
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .unwrap();
        let output = plain.psql(database, &["-q"], dump);
        // A new database has it already.
        let others = output.replace("ERROR:  schema \"public\" already exists", "");
        assert!(
            !others.contains("ERROR") && !others.contains("FATAL"),
            "{database}: {output}"
        );
        let output = plain.psql(database, &["-q"], sequences);
        assert!(!output.contains("ERROR"), "{database}: {output}");
        let mut client = plain.client_to(database);
        client
            .batch_execute("INSERT INTO dumped VALUES (3, 'three'); UPDATE dumped SET t = 'x' WHERE id = 1")
            .unwrap();
        assert_eq!(checksum(&mut client, "dumped").unwrap().0, 3);
        let sql = "SELECT array_agg(id) = '{3}' FROM dumped
                   WHERE \"No\" = (SELECT max(\"No\") FROM dumped) OR n = (SELECT max(n) FROM dumped)";
        assert!(client.query_one(sql, &[]).unwrap().get::<_, bool>(0), "{database}");
    }
}

#[test]
fn sessions_and_waits_have_readable_names() {
    let cluster = CLUSTER.lease();
    cluster.create_table("watched", "CREATE TABLE watched (id int PRIMARY KEY)");
    // The launcher and the log worker have no database connection, and so no row there.
    let sql = "SELECT coalesce(string_agg(application_name || '|' || backend_type || '|' || coalesce(wait_event, ''), ' '), '')
                 FROM pg_stat_activity WHERE application_name LIKE 'synod%'";
    let seen = wait_until(DEADLINE, "the sessions of the extension", || {
        let seen = text(cluster.server(0), sql);
        let idle =
            seen.contains("synod link n2->n1|client backend|") && seen.contains("synod apply|synod apply worker|");
        idle.then_some(seen)
    });
    if Run::current().install().major() >= 17 {
        wait_until(DEADLINE, "named waits", || {
            let seen = text(cluster.server(0), sql);
            (seen.contains("|SynodLink") && seen.contains("|SynodApply")).then_some(())
        });
    } else {
        assert!(!seen.contains("|Synod"), "{seen}");
    }
    waits_of_clients_have_names(&cluster);
}

/// Nobody answers: a commit waits for its verdict, a read for the others' word.
fn waits_of_clients_have_names(cluster: &Cluster) {
    let named = Run::current().install().major() >= 17;
    let mut observer = cluster.client(0);
    let mut observe = |sql: &str| -> String { observer.query_one(sql, &[]).unwrap().get(0) };
    // The first write of a server's life waits as a read does.
    cluster
        .client(0)
        .batch_execute("INSERT INTO watched VALUES (0)")
        .unwrap();
    (1..cluster.len()).for_each(|node| cluster.server(node).pause());
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        std::thread::scope(|scope| {
            for (statement, event) in [
                ("INSERT INTO watched VALUES (1)", "SynodCommit"),
                ("TABLE watched", "SynodRead"),
            ] {
                let waiting = scope.spawn(move || {
                    let mut client = cluster.client(0);
                    client.batch_execute("SET synod.commit_timeout = '30s'; SET synod.read_timeout = '30s'")?;
                    client.batch_execute(statement)
                });
                wait_until(DEADLINE, event, || {
                    let seen = observe(&format!(
                        "SELECT coalesce(max(wait_event), '') FROM pg_stat_activity WHERE query = '{statement}' AND wait_event_type = 'Extension'"
                    ));
                    (seen == if named { event } else { "Extension" }).then_some(())
                });
                observe(&format!(
                    "SELECT pg_cancel_backend(pid)::text FROM pg_stat_activity WHERE query = '{statement}'"
                ));
                assert!(waiting.join().unwrap().is_err(), "{statement} was canceled");
            }
        });
    }));
    (1..cluster.len()).for_each(|node| cluster.server(node).resume());
    waited.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    if named {
        let names = observe("SELECT string_agg(name, ' ' ORDER BY name) FROM pg_wait_events WHERE name LIKE 'Synod%'");
        for name in [
            "SynodApply",
            "SynodCommit",
            "SynodLauncher",
            "SynodLink",
            "SynodLog",
            "SynodRead",
        ] {
            assert!(names.contains(name), "{name} is not among {names}");
        }
    }
}

/// What `openssl` makes: an authority, and certificates that it signed.
struct Certificates(PathBuf);

impl Certificates {
    fn new(directory: PathBuf) -> Self {
        let made = Self(directory);
        made.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ]);
        made
    }

    /// A key and its certificate; the common name is the host's or the role's.
    fn issue(&self, name: &str) {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-out",
            &certificate,
        ]);
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = std::process::Command::new("openssl")
            .args(arguments)
            .current_dir(&self.0)
            .output()
            .expect("openssl starts");
        assert!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Keys belong to who uses them: the servers' account.
    fn hand_over(&self) {
        for entry in std::fs::read_dir(&self.0).unwrap() {
            let path = entry.unwrap().path();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            Run::current().account().own(&path);
        }
    }
}

/// Links only by TLS: n1 is reached with a password, n2 with a client certificate.
fn secured(label: &str, certificates: &Certificates, method: &str) -> Server {
    let (ca, crt, key) = (
        certificates.path("ca.crt"),
        certificates.path("localhost.crt"),
        certificates.path("localhost.key"),
    );
    let server = Server::new(
        label,
        &[
            ("ssl", "on"),
            ("ssl_ca_file", &ca),
            ("ssl_cert_file", &crt),
            ("ssl_key_file", &key),
            ("password_encryption", "scram-sha-256"),
        ],
    );
    let access = format!("local all all trust\nhostssl all synod_link,ops all {method}\n");
    std::fs::write(server.data().join("pg_hba.conf"), access).unwrap();
    server
}

#[test]
fn nodes_meet_with_passwords_and_certificates_and_without_superusers() {
    if !PgInstall::from_environment().has_ssl() {
        eprintln!("certificates between nodes: skipped, this PostgreSQL was built without SSL");
        return;
    }
    let directory = Run::current().new_directory("certificates");
    let certificates = Certificates::new(directory);
    certificates.issue("localhost");
    certificates.issue("synod_link");
    certificates.hand_over();
    let mut servers = [
        secured("n1", &certificates, "scram-sha-256"),
        secured("n2", &certificates, "cert clientcert=verify-full map=nodes"),
    ];
    std::fs::write(
        servers[1].data().join("pg_ident.conf"),
        "nodes synod_link synod_link\nnodes synod_link ops\n",
    )
    .unwrap();
    for server in &mut servers {
        server.start();
        server
            .client()
            .batch_execute(
                "CREATE EXTENSION synod;
                 CREATE ROLE synod_link LOGIN PASSWORD 'a secret' IN ROLE synod_replicator;
                 CREATE ROLE ops LOGIN PASSWORD 'another' IN ROLE synod_admin;
                 GRANT pg_read_all_data TO ops; GRANT CREATE ON SCHEMA public TO ops;
                 SET ROLE ops; CREATE TABLE accounts (id int PRIMARY KEY, balance int)",
            )
            .unwrap();
    }
    let ca = certificates.path("ca.crt");
    let address = |server: &Server| {
        format!(
            "host=localhost port={} dbname=postgres sslmode=verify-full sslrootcert={ca}",
            server.port()
        )
    };
    let key = format!(
        "sslcert={} sslkey={}",
        certificates.path("synod_link.crt"),
        certificates.path("synod_link.key")
    );
    let dsns = [
        format!("{} user=synod_link password='a secret'", address(&servers[0])),
        format!("{} user=synod_link {key}", address(&servers[1])),
    ];
    let ops = |server: &Server| {
        let dsn = server.client_dsn("postgres").replace("user=postgres", "user=ops");
        postgres::Client::connect(&dsn, postgres::NoTls).unwrap()
    };
    ops(&servers[0])
        .execute("SELECT synod.create_group('safe', 'n1', $1)", &[&dsns[0]])
        .unwrap();
    ops(&servers[0])
        .batch_execute("SELECT synod.replicate_table('accounts'); INSERT INTO accounts VALUES (1, 100)")
        .unwrap();
    // Copying rows takes a role that may read them.
    let via = format!("{} user=ops password=another", address(&servers[0]));
    ops(&servers[1])
        .execute("SELECT synod.join_group($1, 'n2', $2)", &[&via, &dsns[1]])
        .unwrap();
    ops(&servers[1])
        .batch_execute("UPDATE accounts SET balance = balance - 1 WHERE id = 1")
        .unwrap();
    let balance: i32 = ops(&servers[0])
        .query_one("SELECT balance FROM accounts", &[])
        .unwrap()
        .get(0);
    assert_eq!(balance, 99);
    for server in &servers {
        let links = wait_until(DEADLINE, "the link of the other node", || {
            let sql = "SELECT count(*) || ' ' || bool_and(s.ssl) || ' ' || bool_and(a.usename = 'synod_link')
                         FROM pg_stat_activity AS a JOIN pg_stat_ssl AS s USING (pid) WHERE a.application_name LIKE 'synod link%'";
            let links = text(server, sql);
            links.starts_with('1').then_some(links)
        });
        assert_eq!(links, "1 true true");
        let shown = text(server, "SELECT string_agg(dsn, ' ') FROM synod.nodes");
        assert!(!shown.contains("secret"), "a password is shown: {shown}");
    }
    assert_link_role_is_confined(&servers[0]);
    let wrong = format!("{} user=synod_link password=wrong", address(&servers[0]));
    let error = ops(&servers[1])
        .execute("SELECT synod.rejoin_group($1)", &[&wrong])
        .expect_err("a wrong password");
    assert!(error.as_db_error().is_some(), "{error:?}");
}

/// What the link role may not do: read or write tables, administer, read other roles' doings.
fn assert_link_role_is_confined(server: &Server) {
    let mut client = server.client();
    client.batch_execute("SET ROLE synod_link").unwrap();
    for statement in [
        "SELECT * FROM accounts",
        "INSERT INTO accounts VALUES (2, 2)",
        "SELECT synod.replicate_table('accounts')",
        "SELECT synod.create_group('x', 'x', 'x')",
        "SELECT synod.leave_group()",
        "SELECT synod.remove_node('n2')",
        "SELECT synod._hold(1000)",
        "SELECT * FROM synod.stat_log",
    ] {
        let error = client.batch_execute(statement).expect_err(statement);
        assert_eq!(sqlstate(&error), Some("42501"), "{statement}: {error:?}");
    }
    for statement in [
        "SELECT synod._set_origin(1)",
        "SELECT synod._forget(true)",
        "SELECT synod._copy_tables('', '', '', 1, false)",
        "SELECT synod._check_tables('host=127.0.0.1', 'x', false)",
    ] {
        let error = client.batch_execute(statement).expect_err(statement);
        assert!(
            matches!(sqlstate(&error), Some("42501" | "55000")),
            "{statement}: {error:?}"
        );
    }
}
