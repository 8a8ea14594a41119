//! An installation of the binary: a folder with its configuration, the simulated service, and its processes.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use incident_sync::postgres::{Embedded, EmbeddedSettings, Hold};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use simulator::{Clock, Endpoint, Options, ScriptedReply, Simulator, TenantSpec, World};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use super::folder::open_folder;
use super::poll::{PATIENCE, PAUSE};
pub(crate) use super::poll::{eventually, until};
use super::secrets::{CANARY, PASSWORD, SECRET, key_lines};
use super::tenants::PLENTY;
pub(crate) use super::tenants::{id, spec};
use super::truth;

/// How every signed token begins: base64 of `{"`.
const TOKEN: &str = "eyJ";
/// What the design promises from SIGTERM to the end.
pub(crate) const PROMISED_END: Duration = Duration::from_secs(10);

/// Writes a file that no other user may read, replaced as a whole, as secrets should be.
pub(crate) fn write_secret(path: &Path, content: &[u8]) {
    let draft = path.with_extension("secret-draft");
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.create(true).write(true).truncate(true).mode(0o600).open(&draft).unwrap();
    file.write_all(content).unwrap();
    std::fs::rename(draft, path).unwrap();
}

/// The part of the configuration that tests change.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) database: String,
    pub(crate) poll: &'static str,
    /// How the application proves itself.
    pub(crate) app: String,
    pub(crate) tenants: Vec<u128>,
    /// Those of them that are read from Graph.
    pub(crate) graph: Vec<u128>,
    /// Written after everything else.
    pub(crate) more: String,
}

pub(crate) struct Installation {
    pub(crate) simulator: Simulator,
    pub(crate) folder: TempDir,
}

impl Installation {
    /// Serves these tenants and configures them all.
    pub(crate) async fn with(specs: Vec<TenantSpec>) -> Self {
        Self::at(Clock::Real, specs).await
    }

    /// The same by another clock than the machine's.
    pub(crate) async fn at(clock: Clock, specs: Vec<TenantSpec>) -> Self {
        let simulator = Simulator::start(Options {
            client_secret: SECRET.to_owned(),
            clock,
            ..Options::default()
        });
        let site = Self { simulator: simulator.await.unwrap(), folder: open_folder("is-service-") };
        write_secret(&site.path("secret"), format!("{SECRET}\n").as_bytes());
        let tenants = specs.iter().map(|spec| spec.id.as_u128() - id(0).as_u128()).collect();
        for spec in specs {
            site.world().add_tenant(spec);
        }
        site.configure(&Settings { tenants, ..site.settings() });
        site
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            database: format!("embedded_dir = {:?}", self.path("pg")),
            poll: "*/2 * * * * *",
            app: "client_secret_file = \"secret\"".to_owned(),
            tenants: Vec::new(),
            graph: Vec::new(),
            more: String::new(),
        }
    }

    /// The private server as an external one, which several instances can share; the test starts and ends it.
    pub(crate) fn shared_database(&self) -> String {
        let socket = self.path("pg/socket");
        format!(
            "url = \"postgres://incident_sync:{PASSWORD}@localhost/incident_sync?host={}\"",
            socket.display()
        )
    }

    pub(crate) fn configure(&self, settings: &Settings) {
        let (url, client_id) = (self.simulator.url(), Options::default().client_id);
        let Settings { database, poll, app, tenants, graph, more } = settings;
        let mut text = format!(
            "[database]\n{database}\n[schedule]\npoll = \"{poll}\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
             [app]\nclient_id = \"{client_id}\"\n{app}\n\
             [api]\nauthority = \"{url}\"\nbase_url = \"{url}\"\n\
             [sync]\ncalls_per_minute = {PLENTY}\ncalls_per_hour = {PLENTY}\ngraph_calls_per_minute = {PLENTY}\n"
        );
        for number in tenants {
            text.push_str(&format!(
                "[[tenants]]\nid = \"{}\"\nname = \"tenant-{number}\"\n",
                id(*number)
            ));
            if graph.contains(number) {
                text.push_str("source = \"graph\"\n");
            }
        }
        std::fs::write(self.config(), text + more).unwrap();
    }

    pub(crate) fn world(&self) -> &World {
        self.simulator.world()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("incident-sync.toml")
    }

    /// The next pages of a tenant arrive that much later.
    pub(crate) fn slow_down(&self, number: u128, pause: Duration) {
        for endpoint in [Endpoint::Incidents, Endpoint::GraphIncidents] {
            let slowly = std::iter::repeat_with(|| ScriptedReply::Delay(pause)).take(1_000);
            self.world().script(id(number), endpoint, slowly.collect());
        }
    }

    /// Pages that the tenant was asked for so far.
    pub(crate) fn pages(&self, number: u128) -> usize {
        let calls = self.world().calls(id(number));
        calls
            .iter()
            .filter(|call| call.endpoint == Endpoint::Incidents && call.status == 200)
            .count()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_incident-sync"));
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env("STATE_DIRECTORY", self.path("state"));
        command
    }

    /// Starts the daemon with its log as JSON.
    pub(crate) fn start_daemon(&self) -> Running {
        Running::start(self.command(&["run", "--log-format", "json"]), self.folder.path())
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        Running::start(self.command(arguments), self.folder.path()).ends()
    }

    pub(crate) fn embedded(&self) -> EmbeddedSettings {
        EmbeddedSettings { dir: self.path("pg"), postgres_bin: None }
    }

    /// The private database while no daemon has it.
    pub(crate) async fn open_database(&self) -> (Embedded, PgPool) {
        let embedded = Embedded::start(&self.embedded(), Hold::Daemon).await.unwrap();
        let pool = PgPool::connect_with(embedded.connect_options()).await.unwrap();
        (embedded, pool)
    }

    /// The database of the daemon, as `psql` would reach it.
    pub(crate) async fn connect(&self) -> PgPool {
        let options = PgConnectOptions::new_without_pgpass().socket(self.path("pg/socket"));
        let options = options.username("incident_sync").database("incident_sync");
        eventually("the private Postgres answers", async || {
            PgPool::connect_with(options.clone()).await.ok()
        })
        .await
    }

    /// The tables hold what the Defender API knows: ids, times, alerts, entities and payloads.
    pub(crate) async fn assert_truth(&self, pool: &PgPool, number: u128) {
        let expected = truth::expected(&self.world().truth(id(number)));
        let stored = truth::stored(pool, id(number)).await;
        truth::assert_same(&stored, &expected, &format!("tenant-{number}"));
    }

    /// The tables hold what Graph knows.
    pub(crate) async fn assert_graph_truth(&self, pool: &PgPool, number: u128) {
        let expected = truth::expected_of_graph(&self.world().graph_truth(id(number)));
        let stored = truth::stored(pool, id(number)).await;
        truth::assert_same(&stored, &expected, &format!("tenant-{number}"));
    }

    /// Processes that work in the private Postgres's directories.
    pub(crate) fn servers(&self) -> Vec<i32> {
        servers_below(self.folder.path())
    }
}

impl Drop for Installation {
    /// What a failed test left running. Everything below this folder was started by us.
    fn drop(&mut self) {
        let started = Instant::now();
        while !self.servers().is_empty() && started.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(PAUSE);
        }
        for pid in self.servers() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // It may have ended meanwhile.
        }
        if !std::thread::panicking() {
            let telling = files_with_secrets(self.folder.path());
            assert!(telling.is_empty(), "a secret stands in {telling}");
        }
    }
}

/// Files below a folder that contain a secret: logs, output, and the private server's data, journal and configuration. Those
/// that tests put it into are left out. Data is partly random, so a token must show more of its beginning there.
pub(crate) fn files_with_secrets(folder: &Path) -> String {
    let mut search = Command::new("grep");
    search.args(["-rlaF", "--exclude=secret*", "--exclude=*.toml"]);
    search.args(["-e", CANARY, "-e", PASSWORD, "-e", "eyJhbGci", "-e", "eyJ0eXAi"]);
    for line in key_lines() {
        search.args(["-e", &line]);
    }
    search.arg(folder);
    String::from_utf8(search.output().unwrap().stdout).unwrap()
}

/// Processes whose working directory is below this one; Postgres works in its data.
pub(crate) fn servers_below(folder: &Path) -> Vec<i32> {
    let folder = folder.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let inside = |process: std::fs::DirEntry| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        std::fs::read_link(process.path().join("cwd")).ok()?.starts_with(&folder).then_some(pid)
    };
    processes.filter_map(inside).collect()
}

/// A started process. It is killed when the test forgets it.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a process ended.
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

static STARTED: AtomicUsize = AtomicUsize::new(0);

impl Running {
    /// Its output goes to files below `folder`.
    pub(crate) fn start(command: Command, folder: &Path) -> Self {
        Self::start_on(command, folder, Stdio::null())
    }

    /// The same with this keyboard.
    pub(crate) fn start_on(mut command: Command, folder: &Path, keyboard: Stdio) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) =
            (folder.join(format!("stdout-{number}")), folder.join(format!("stderr-{number}")));
        command
            .stdin(keyboard)
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
        for name in ["RUST_LOG", "JOURNAL_STREAM", "INCIDENT_SYNC_CONFIG", "CREDENTIALS_DIRECTORY"]
        {
            if !command.get_envs().any(|(set, _)| set == name) {
                command.env_remove(name);
            }
        }
        let mut started = Self { child: command.spawn().unwrap(), stdout, stderr };
        // The kernel returns before it has laid out the new program's arguments and environment.
        while started.is_alive()
            && std::fs::read(format!("/proc/{}/environ", started.pid()))
                .unwrap_or_default()
                .is_empty()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        started.assert_silent_to_neighbours();
        started
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.assert_silent_to_neighbours();
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn stdout(&self) -> String {
        checked(&self.stdout)
    }

    pub(crate) fn stderr(&self) -> String {
        checked(&self.stderr)
    }

    /// The first event with this message, once it is there.
    pub(crate) async fn logs(&self, message: &str) -> Value {
        let written =
            async || events(&self.stderr()).into_iter().find(|event| says(event, message));
        eventually(&format!("in the log: {message}"), written).await
    }

    /// What a GET of the daemon's own listener answers.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let started = self.logs("Started").await;
        let address = started["listen"].as_str().unwrap();
        let answer = incident_sync::http_client::client()
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_keeps_secrets(&text, path);
        (status, text)
    }

    /// Nothing secret where other users of the machine can look, by this process or the private server below it.
    pub(crate) fn assert_silent_to_neighbours(&self) {
        let mut processes = vec![self.child.id().to_string()];
        while let Some(pid) = processes.pop() {
            for file in ["cmdline", "environ"] {
                // Children come and go; a process that has ended has neither.
                let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                assert_keeps_secrets(&String::from_utf8_lossy(&bytes), file);
            }
            for task in
                std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten()
            {
                let children =
                    std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                processes.extend(children.split_whitespace().map(str::to_owned));
            }
        }
    }

    /// Waits for the end, however long a command may take.
    pub(crate) fn ends(self) -> Done {
        self.ends_within(PATIENCE)
    }

    /// Signals, and waits as long as the design promises.
    pub(crate) fn ends_on(self, signal: Signal) -> Done {
        self.signal(signal);
        self.ends_in_time()
    }

    /// After a signal: as long as the design promises.
    pub(crate) fn ends_in_time(self) -> Done {
        self.ends_within(PROMISED_END)
    }

    fn ends_within(mut self, limit: Duration) -> Done {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Done { status, stdout: self.stdout(), stderr: self.stderr() };
            }
            assert!(
                started.elapsed() < limit,
                "no end within {limit:?}; standard error:\n{}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A power cut for this process alone.
    pub(crate) fn dies(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        drop((self.stdout(), self.stderr()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After the end there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Done {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output, which must be one JSON value and nothing else.
    pub(crate) fn json(&self) -> Value {
        let parsed = serde_json::from_str(&self.stdout);
        parsed.unwrap_or_else(|error| {
            panic!("{error} in standard output:\n{}\nand error:\n{}", self.stdout, self.stderr)
        })
    }

    /// The tenants of `status --json` or `verify --json`.
    pub(crate) fn tenants(&self) -> Value {
        self.json()["tenants"].take()
    }

    /// Standard output of a command that must have gone well.
    pub(crate) fn success(self) -> String {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// Whether an event has this message, with or without a reason behind a colon.
pub(crate) fn says(event: &Value, message: &str) -> bool {
    let text = event["message"].as_str().unwrap();
    text.strip_prefix(message).is_some_and(|more| more.is_empty() || more.starts_with(": "))
}

/// The lines of a log in JSON.
pub(crate) fn events(log: &str) -> Vec<Value> {
    // The last line may be half written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the log line {line}"))
    };
    whole.lines().map(parse).collect()
}

fn checked(path: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    assert_keeps_secrets(&text, &path.display().to_string());
    text
}

fn assert_keeps_secrets(text: &str, place: &str) {
    let [first, second] = &key_lines();
    for secret in [CANARY, PASSWORD, TOKEN, first, second] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in {place}: {line:?}");
    }
}

/// One number from the database; -1 where it does not answer.
pub(crate) async fn number(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap_or(-1)
}

/// Incidents stored of a tenant.
pub(crate) async fn stored(pool: &PgPool, tenant: u128) -> usize {
    let query = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM defender.incidents WHERE tenant_id = $1",
    );
    let count = query.bind(id(tenant)).fetch_one(pool).await;
    count.map_or(0, |count| usize::try_from(count).unwrap())
}

/// The rows of one check in the report of `check --json`.
pub(crate) fn found<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["check"] == check).collect()
}

pub(crate) fn signal_all(servers: &[i32], signal: Signal) {
    for pid in servers {
        let _ = kill(Pid::from_raw(*pid), signal); // Some have ended meanwhile.
    }
}
