//! The database's password changes while the daemon runs.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use nix::sys::signal::Signal;
use sqlx::PgPool;

use crate::support::installation::{Installation, Settings, events, id, spec, stored, until};

fn write_password(site: &Installation, password: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(site.path("password"))
        .unwrap();
    std::io::Write::write_all(&mut file, password.as_bytes()).unwrap();
}

async fn execute(pool: &PgPool, statement: &'static str) {
    sqlx::raw_sql(statement).execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_password_is_used_without_restart() {
    let site = Installation::with(vec![spec(1, 10)]).await;
    let (embedded, pool) = site.open_database().await;
    execute(&pool, "CREATE ROLE app LOGIN SUPERUSER PASSWORD 'first-c4nary'").await;
    let access = site.path("pg/data/pg_hba.conf");
    let owner = std::fs::metadata(&access).unwrap().permissions().mode();
    std::fs::write(&access, "local all app scram-sha-256\nlocal all all trust\n").unwrap();
    assert_eq!(std::fs::metadata(&access).unwrap().permissions().mode(), owner);
    execute(&pool, "SELECT pg_reload_conf()").await;
    let socket = site.path("pg/socket");
    let database = format!(
        "url = \"postgres://app@localhost/incident_sync?host={}\"\npassword_file = \"password\"",
        socket.display()
    );
    site.configure(&Settings { database, tenants: vec![1], ..site.settings() });

    write_password(&site, "wrong-c4nary");
    let refused = site.run(&["status"]);
    assert_eq!(refused.code(), Some(3), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("password authentication failed")
            && refused.stderr.contains("Check user, password")
    );

    write_password(&site, "first-c4nary\n");
    let daemon = site.start_daemon();
    until("the first incidents", async || stored(&pool, 1).await == 10).await;
    execute(&pool, "ALTER ROLE app PASSWORD 'second-c4nary'").await;
    until("the daemon is refused", async || {
        // Each time: a session that is just logging in with the old password has no name yet.
        execute(
            &pool,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
        )
        .await;
        events(&daemon.stderr()).iter().any(|event| event["class"] == "database_rights")
    })
    .await;
    write_password(&site, "second-c4nary");
    site.world().create(id(1));
    until("it is at work again", async || stored(&pool, 1).await == 11).await;
    let log = daemon.ends_on(Signal::SIGTERM).stderr;
    assert!(!log.contains("c4nary"), "a password is in the log");
    pool.close().await;
    embedded.stop().await;
}
