//! One Postgres for all tests of this process, one database for each test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use incident_sync::postgres::{Embedded, EmbeddedSettings, Hold};
use incident_sync::store::apply_migrations;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::folder::{PARENT, open_folder};

pub(crate) const PREFIX: &str = "incident-sync-test-";

/// The server lives until this process ends; the next process removes what it left.
fn remove_abandoned() {
    let entries = std::fs::read_dir(PARENT).unwrap().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let lock = std::fs::File::open(entry.path().join("pg/lock"));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Where the server's programs are, if not the newest installed: CI runs the isolation tests on a second major version too.
pub(crate) fn server_programs() -> Option<PathBuf> {
    std::env::var_os("INCIDENT_SYNC_TEST_POSTGRES_BIN").map(PathBuf::from)
}

pub(crate) fn program(name: &str) -> PathBuf {
    if let Some(program) = server_programs().map(|dir| dir.join(name)) {
        return program;
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

struct Server {
    embedded: Embedded,
    _folder: TempDir,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();
static DATABASES: AtomicUsize = AtomicUsize::new(0);

async fn server() -> &'static Server {
    let start = async || {
        remove_abandoned();
        let folder = open_folder(PREFIX);
        let settings =
            EmbeddedSettings { dir: folder.path().join("pg"), postgres_bin: server_programs() };
        let embedded = Embedded::start(&settings, Hold::Daemon).await.unwrap();
        let options = embedded.connect_options();
        execute(&options, "CREATE DATABASE template_migrated".to_owned()).await;
        apply_migrations(&options.clone().database("template_migrated")).await.unwrap();
        Server { embedded, _folder: folder }
    };
    SERVER.get_or_init(start).await
}

async fn execute(options: &PgConnectOptions, statement: String) {
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// A fresh database with the current schema.
pub(crate) async fn database() -> PgConnectOptions {
    let options = server().await.embedded.connect_options();
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    execute(&options, format!("CREATE DATABASE {name} TEMPLATE template_migrated")).await;
    options.database(&name)
}

/// A fresh database with nothing in it.
pub(crate) async fn empty_database() -> PgConnectOptions {
    let options = server().await.embedded.connect_options();
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    execute(&options, format!("CREATE DATABASE {name}")).await;
    options.database(&name)
}

/// Whether this is a database of the server that all tests share and none may stop.
pub(crate) fn is_shared(options: &PgConnectOptions) -> bool {
    SERVER.get().is_some_and(|server| {
        server.embedded.connect_options().get_socket() == options.get_socket()
    })
}
