use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{User, geteuid};
use sqlx::{ConnectOptions, Executor};
use tokio::time::sleep;

use super::server::postgres_in;
use super::*;

/// A directory that the server's account can enter, independent of the umask.
fn open_tempdir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn settings(dir: &tempfile::TempDir) -> EmbeddedSettings {
    EmbeddedSettings { dir: dir.path().join("postgres"), postgres_bin: None }
}

async fn count(embedded: &Embedded) -> i64 {
    let mut connection = embedded.connect_options().connect().await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut connection).await.unwrap()
}

async fn make_table(embedded: &Embedded) {
    let mut connection = embedded.connect_options().connect().await.unwrap();
    connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 7) AS n").await.unwrap();
}

#[tokio::test]
async fn data_survives_a_restart_of_the_server() {
    let dir = open_tempdir();
    let settings = settings(&dir);
    let first = Embedded::start(&settings, Hold::Daemon).await.unwrap();
    assert!(first.is_owner());
    make_table(&first).await;
    let mut exited = first.exited();
    assert!(!*exited.borrow_and_update());
    first.stop().await;
    assert!(*exited.borrow(), "the server has exited when stop returns");
    assert_eq!(postgres_in(&settings.dir.join("data").canonicalize().unwrap()), None);

    let second = Embedded::start(&settings, Hold::Command).await.unwrap();
    assert_eq!(count(&second).await, 7);
    assert_eq!(
        second.psql_line(),
        format!("psql -h {}/socket -U incident_sync incident_sync", settings.dir.display())
    );
    second.stop().await;
}

#[tokio::test]
async fn guest_sees_data_and_leaves_server_running() {
    let dir = open_tempdir();
    let owner = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
    make_table(&owner).await;
    let guest = Embedded::start(&settings(&dir), Hold::Command).await.unwrap();
    assert!(!guest.is_owner());
    assert_eq!(count(&guest).await, 7);
    guest.stop().await;
    assert_eq!(count(&owner).await, 7);
    owner.stop().await;
}

#[tokio::test]
async fn guest_works_in_a_closed_parent_folder() {
    let dir = open_tempdir();
    let owner = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
    make_table(&owner).await;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let guest = Embedded::start(&settings(&dir), Hold::Command).await.unwrap();
    assert!(!guest.is_owner());
    assert_eq!(count(&guest).await, 7);
    guest.stop().await;
    owner.stop().await;
}

#[tokio::test]
async fn files_made_by_root_belong_to_directory_owner() {
    if !geteuid().is_root() {
        return;
    }
    let dir = open_tempdir();
    // Not `postgres`, which is the default.
    let service = User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    std::os::unix::fs::chown(dir.path(), Some(service), None).unwrap();
    let embedded = Embedded::start(&settings(&dir), Hold::Command).await.unwrap();
    for made in ["", "lock", "guests", "data", "socket", "postgres.log"] {
        assert_eq!(fs::metadata(settings(&dir).dir.join(made)).unwrap().uid(), service, "{made}");
    }
    embedded.stop().await;
}

#[tokio::test]
async fn owning_command_waits_for_its_guests() {
    let dir = open_tempdir();
    let owner = Embedded::start(&settings(&dir), Hold::Command).await.unwrap();
    make_table(&owner).await;
    let guest = Embedded::start(&settings(&dir), Hold::Command).await.unwrap();
    let exited = owner.exited();
    let stopping = tokio::spawn(owner.stop());
    sleep(Duration::from_millis(300)).await;
    assert!(!*exited.borrow());
    assert_eq!(count(&guest).await, 7);
    guest.stop().await;
    stopping.await.unwrap();
    assert!(*exited.borrow());
}

#[tokio::test]
async fn crashed_server_is_noticed_and_replaced() {
    let dir = open_tempdir();
    let owner = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
    make_table(&owner).await;
    let Role::Owner { server, .. } = &owner.role else { panic!("the first is the owner") };
    kill(server.pid, Signal::SIGKILL).unwrap();
    owner.exited().wait_for(|exited| *exited).await.unwrap();
    let data = owner.layout.data.clone();
    drop(owner);
    // As after a reboot: the pid in the stale file belongs to another process.
    let stale = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let lines: Vec<&str> = stale.lines().skip(1).collect();
    fs::write(data.join("postmaster.pid"), format!("1\n{}\n", lines.join("\n"))).unwrap();

    let next = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
    assert_eq!(count(&next).await, 7);
    next.stop().await;
}

#[tokio::test]
async fn start_waits_for_a_dropped_server_to_stop() {
    let dir = open_tempdir();
    let dropped = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
    make_table(&dropped).await;
    drop(dropped);
    let next = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
    assert_eq!(count(&next).await, 7);
    next.stop().await;
}

#[tokio::test]
async fn half_made_data_directory_is_replaced() {
    let dir = open_tempdir();
    fs::create_dir_all(settings(&dir).dir.join("data.new/base")).unwrap();
    let embedded = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
    make_table(&embedded).await;
    embedded.stop().await;
}

#[tokio::test]
async fn failed_server_start_shows_the_server_log() {
    let dir = open_tempdir();
    Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap().stop().await;
    fs::write(settings(&dir).dir.join("data/postgresql.conf"), "work_mem = lots\n").unwrap();
    let error = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap_err().to_string();
    assert!(error.contains("work_mem"), "{error}");
}

#[tokio::test]
async fn startup_errors_contain_advice() {
    let dir = open_tempdir();
    let no_programs =
        EmbeddedSettings { postgres_bin: Some(dir.path().to_owned()), ..settings(&dir) };
    let error = Embedded::start(&no_programs, Hold::Daemon).await.unwrap_err().to_string();
    assert!(
        error.contains("apt-get install postgresql") && error.contains("database.url"),
        "{error}"
    );

    let long = EmbeddedSettings { dir: dir.path().join("x".repeat(100)), postgres_bin: None };
    let error = Embedded::start(&long, Hold::Daemon).await.unwrap_err().to_string();
    assert!(error.contains("database.embedded_dir"), "{error}");

    if geteuid().is_root() {
        let closed = tempfile::tempdir().unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let error =
            Embedded::start(&settings(&closed), Hold::Daemon).await.unwrap_err().to_string();
        assert!(error.contains(&format!("{} is closed", closed.path().display())), "{error}");
    }
}

#[test]
fn psql_line_is_quoted_for_the_shell() {
    assert_eq!(shell_word("/var/lib/x"), "/var/lib/x");
    assert_eq!(shell_word("/home/o'neil/my dir"), r"'/home/o'\''neil/my dir'");
}
