//! `demo`, on a machine without any preparation.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::folder::open_folder;
use crate::support::installation::{Running, servers_below, until};

const NOBODY: u32 = 65_534;
const ANSWERS: [&str; 3] = [
    "Open incidents by tenant and severity",
    "Devices with the most alerts",
    "How current each tenant is, and who must act",
];

/// The demonstration with all its state below the folder.
fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incident-sync"));
    command.arg("demo").args(arguments);
    command
        .env("STATE_DIRECTORY", folder.join("state"))
        .env("HOME", folder)
        .env_remove("XDG_STATE_HOME");
    command
}

fn assert_shows_everything(text: &str) {
    for part in
        ANSWERS.into_iter().chain(["contoso", "lucerne", "customer_admin", "margie", "throttled"])
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let answers = text
        .split(";\n")
        .skip(1)
        .filter(|answer| answer.contains('─') || answer.contains('═'))
        .count();
    assert_eq!(answers, ANSWERS.len(), "each query has an answer:\n{text}");
    assert!(text.contains("fabrikam and tailspin are read from Microsoft Graph"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_once_prints_table_and_answers_repeatedly() {
    let folder = open_folder("is-service-");
    for _ in 0..2 {
        let done =
            Running::start(demo(folder.path(), &["--once", "--incidents", "40"]), folder.path())
                .ends();
        assert_shows_everything(&done.success());
        assert_eq!(servers_below(folder.path()), [0; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_shows_new_rows_until_ctrl_c() {
    let folder = open_folder("is-service-");
    let demo = Running::start(demo(folder.path(), &["--incidents", "40"]), folder.path());
    // Ten healthy tenants and the throttled one, whose history fits into its quota.
    until("rows of eleven tenants, and then living ones", async || {
        let totals = demo.stdout();
        let totals = totals
            .lines()
            .filter_map(|line| line.split_once(" incidents (+")?.0.parse::<u32>().ok());
        totals.max() > Some(400)
    })
    .await;
    let screen = demo.stdout();
    for part in ANSWERS.into_iter().chain(["psql -h ", "/metrics", "Ctrl-C"]) {
        assert!(screen.contains(part), "{part} is missing in\n{screen}");
    }
    let line = screen.lines().find_map(|line| line.trim().strip_prefix("psql")).unwrap().to_owned();
    let mut psql = Command::new("sh");
    psql.arg("-c")
        .arg(format!("psql{line} -At -c 'SELECT count(*) > 400 FROM defender.incidents'"));
    assert_eq!(Running::start(psql, folder.path()).ends().success(), "t\n");
    let mut psql = Command::new("sh");
    let of_graph = "SELECT string_agg(DISTINCT name, \" \" ORDER BY name) FROM defender.tenants JOIN defender.incident_payloads
        USING (tenant_id) WHERE source = \"graph\"";
    psql.arg("-c").arg(format!("psql{line} -At -c \"{}\"", of_graph.replace('"', "'")));
    assert_eq!(Running::start(psql, folder.path()).ends().success(), "fabrikam tailspin\n");

    let done = demo.ends_on(Signal::SIGINT);
    assert_eq!(done.code(), Some(0), "{}", done.stderr);
    assert!(done.stdout.ends_with("Stopped.\n"), "{}", done.stdout);
    assert_eq!(servers_below(folder.path()), [0; 0]);
}

/// A folder of another user, and a copy of the binary that it can run.
fn home_of(uid: u32) -> (TempDir, std::path::PathBuf) {
    let folder = open_folder("is-service-");
    let program = folder.path().join("incident-sync");
    std::fs::copy(env!("CARGO_BIN_EXE_incident-sync"), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(folder.path().join("state")).unwrap();
    std::os::unix::fs::chown(folder.path().join("state"), Some(uid), Some(uid)).unwrap();
    (folder, program)
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_works_for_an_ordinary_user() {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !nix::unistd::geteuid().is_root() || !setpriv.exists() {
        return; // All other tests run as an ordinary user then.
    }
    let (folder, program) = home_of(NOBODY);
    let mut command = Command::new(setpriv);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args([
        "demo",
        "--once",
        "--incidents",
        "30",
    ]);
    command
        .env("STATE_DIRECTORY", folder.path().join("state"))
        .env("HOME", "/nonexistent")
        .current_dir("/");
    let done = Running::start(command, folder.path()).ends();
    assert_shows_everything(&done.success());
    let data = std::fs::metadata(folder.path().join("state/demo/data")).unwrap();
    assert_eq!((data.uid(), data.mode() & 0o777), (NOBODY, 0o700));
    assert_eq!(servers_below(folder.path()), [0; 0]);
}
