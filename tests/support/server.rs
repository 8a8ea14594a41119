//! A Postgres for a single test, which may be stopped, restarted and configured.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use incident_sync::postgres::{Embedded, EmbeddedSettings, Hold};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use super::folder::open_folder;
use super::postgres::server_programs;

/// Its data is removed with it.
pub(crate) struct OwnServer {
    folder: TempDir,
    program: PathBuf,
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

impl OwnServer {
    /// A running server on a loopback port, with these settings on its command line.
    pub(crate) async fn with(settings: &[&str]) -> Self {
        // Not with the prefix of the shared server's: folders there are removed when their lock is free.
        let folder = open_folder("is-own-");
        let embedded =
            EmbeddedSettings { dir: folder.path().join("pg"), postgres_bin: server_programs() };
        let embedded = Embedded::start(&embedded, Hold::Daemon).await.unwrap();
        let pid = std::fs::read_to_string(folder.path().join("pg/data/postmaster.pid")).unwrap();
        let program =
            std::fs::read_link(format!("/proc/{}/exe", pid.lines().next().unwrap())).unwrap();
        embedded.stop().await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { folder, program, port, settings, child: None };
        server.start().await;
        server
    }

    /// Returns when it answers.
    pub(crate) async fn start(&mut self) {
        let data = self.folder.path().join("pg/data");
        let owner = std::fs::metadata(&data).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-D").arg(&data).args([
            "-p",
            &self.port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        command.arg("-k").arg(self.folder.path().join("pg/socket"));
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        if nix::unistd::geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        while self.try_execute("SELECT 1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `SIGQUIT` is a crash to the clients: no answer, no message. `SIGINT` closes their connections properly.
    pub(crate) fn stop(&mut self, how: Signal) {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id().cast_signed()), how).unwrap();
            child.wait().unwrap();
        }
    }

    /// As the superuser, over TCP.
    pub(crate) fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username("incident_sync")
            .database("incident_sync")
            .ssl_mode(PgSslMode::Disable)
    }

    /// The processes that serve our own connections.
    pub(crate) async fn backends(&self) -> Vec<Pid> {
        let mut connection = PgConnection::connect_with(&self.options()).await.unwrap();
        let pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'incident-sync'";
        let pids: Vec<i32> = sqlx::query_scalar(pids).fetch_all(&mut connection).await.unwrap();
        pids.into_iter().map(Pid::from_raw).collect()
    }

    async fn try_execute(&self, statement: &str) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options()).await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await
    }

    /// On a connection of its own.
    pub(crate) async fn execute(&self, statement: &str) {
        self.try_execute(statement).await.unwrap();
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.stop(Signal::SIGQUIT);
    }
}
