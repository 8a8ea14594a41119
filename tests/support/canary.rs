//! Every [`World`](super::world::World) searches for secrets at its end: in all that was logged, in every table of its
//! databases, and in the server's log and configuration.

use std::io::Write;
use std::path::Path;
use std::sync::{LazyLock, Mutex, Once};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use super::peer;
use super::secrets::{CANARY, PASSWORD, key_lines};

/// In events with a secret that a test plants on purpose.
pub(crate) const PLANTED: &str = "planted on purpose";
/// Secrets, tokens of the scripted peer, signed tokens of the simulator (base64 of `{"alg` and `{"typ`) and opaque ones.
static CANARIES: LazyLock<[String; 8]> = LazyLock::new(|| {
    let [first_key, second_key] = key_lines();
    let [secret, password, token, opaque] =
        [CANARY, PASSWORD, peer::TOKEN, "opaque-"].map(str::to_owned);
    let [alg, typ] = ["eyJhbGci", "eyJ0eXAi"].map(str::to_owned);
    [secret, password, first_key, second_key, token, alg, typ, opaque]
});

static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Scans what every library of this process has to say, at the level that says most.
pub(crate) fn watch_the_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        log.with_writer(|| Scanner).init();
    });
}

struct Scanner;

impl Write for Scanner {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        if has_secret(&text) {
            LOGGED.lock().unwrap().push(text.clone().into_owned());
        }
        if text.contains(" WARN ") {
            WARNINGS.lock().unwrap().push(text.into_owned());
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn has_secret(text: &str) -> bool {
    CANARIES.iter().any(|canary| text.contains(canary.as_str()))
}

/// Events with a secret, from any test of this process.
pub(crate) fn logged() -> Vec<String> {
    LOGGED.lock().unwrap().clone()
}

/// Warnings with these words, from any test of this process.
pub(crate) fn warnings(words: &str) -> Vec<String> {
    WARNINGS.lock().unwrap().iter().filter(|event| event.contains(words)).cloned().collect()
}

/// Every table of the database that holds a secret in any column.
pub(crate) async fn tables(database: &PgConnectOptions) -> Result<Vec<String>, sqlx::Error> {
    // The search itself names what it looks for.
    let database = database.clone().disable_statement_logging();
    let mut connection = PgConnection::connect_with(&database).await?;
    // Base64 has one character with a meaning in patterns.
    let pattern = CANARIES.join("|").replace('+', "[+]");
    // Temporary tables go with the session that made them, which ends at any moment of this search.
    let every = "SELECT format('SELECT %L WHERE EXISTS (SELECT FROM %I.%I t WHERE t::text ~ %L)',
        schemaname || '.' || tablename, schemaname, tablename, $1::text)
        FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
        AND schemaname NOT LIKE 'pg\\_temp\\_%'";
    let every: Vec<String> =
        sqlx::query_scalar(every).bind(pattern).fetch_all(&mut connection).await?;
    assert!(!every.is_empty());
    let found = sqlx::query_scalar(AssertSqlSafe(every.join(" UNION ALL ")))
        .fetch_all(&mut connection)
        .await?;
    connection.close().await?;
    Ok(found)
}

/// The server's log and configuration files that hold a secret.
pub(crate) fn server_files(socket: &Path) -> Vec<String> {
    let server = socket.parent().unwrap();
    let names = [
        "postgres.log",
        "data/postgresql.conf",
        "data/postgresql.auto.conf",
        "data/pg_hba.conf",
        "data/postmaster.opts",
    ];
    let files = names.map(|name| server.join(name));
    let holds_secret = |file: &&std::path::PathBuf| {
        std::fs::read(file).is_ok_and(|bytes| has_secret(&String::from_utf8_lossy(&bytes)))
    };
    files.iter().filter(holds_secret).map(|file| file.display().to_string()).collect()
}

/// For destructors, which cannot wait: looks on a thread of its own.
pub(crate) fn assert_kept(databases: Vec<PgConnectOptions>, may_be_gone: bool) {
    let search = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut found = Vec::new();
            for database in &databases {
                match tables(database).await {
                    Ok(tables) => found.extend(tables),
                    Err(_) if may_be_gone => {}
                    Err(error) => panic!("the search for secrets failed: {error}"),
                }
                found.extend(
                    database.get_socket().map(|socket| server_files(socket)).unwrap_or_default(),
                );
            }
            found
        })
    };
    let mut found = std::thread::spawn(search).join().unwrap();
    found.extend(logged().into_iter().filter(|event| !event.contains(PLANTED)));
    assert!(found.is_empty(), "a secret was written down: {found:#?}");
}
