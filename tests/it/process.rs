//! The real binary: how it starts, serves, is killed, and ends.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use incident_sync::simulator::{Behaviour, Endpoint, Options, Reply, Simulator, TenantSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use crate::support::postgres::open_folder;
use crate::support::truth;
use crate::support::world::{SECRET, id, spec};

/// A folder with a configuration, and a simulator that it points to.
struct Site {
    folder: TempDir,
    simulator: Simulator,
    /// Settings before the tenants.
    head: String,
}

impl Site {
    async fn with(specs: Vec<TenantSpec>) -> Self {
        let options = Options { client_secret: SECRET.to_owned(), ..Options::default() };
        let client_id = options.client_id.clone();
        let simulator = Simulator::start(options).await.unwrap();
        let folder = open_folder();
        let secret = folder.path().join("secret");
        let mut file =
            std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&secret).unwrap();
        writeln!(file, "{SECRET}").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (url, database) = (simulator.url(), folder.path().join("pg"));
        let head = format!(
            "[database]\nembedded_dir = \"{}\"\n[http]\nlisten = \"{port}\"\n[schedule]\npoll = \"*/1 * * * * *\"\n\
             [app]\nclient_id = \"{client_id}\"\nclient_secret_file = \"{}\"\n[api]\nauthority = \"{url}\"\nbase_url = \"{url}\"\n\
             [sync]\ncalls_per_minute = 1000000\ncalls_per_hour = 1000000\n",
            database.display(),
            secret.display(),
        );
        let site = Self { folder, simulator, head };
        site.configure(&specs.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>(), "");
        for spec in specs {
            site.simulator.world().add_tenant(spec);
        }
        site
    }

    /// Writes the configuration with these tenants, which are named by their number.
    fn configure(&self, names: &[String], more: &str) {
        let mut text = self.head.clone();
        for name in names {
            let number = name.rsplit('-').next().unwrap().parse().unwrap();
            text.push_str(&format!("[[tenants]]\nid = \"{}\"\nname = \"{name}\"\n", id(number)));
        }
        std::fs::write(self.config(), text + more).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("incident-sync.toml")
    }

    fn listen(&self) -> String {
        self.head.lines().find_map(|line| line.strip_prefix("listen = \"")).unwrap().trim_end_matches('"').to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_incident-sync"));
        command.arg("--config").arg(self.config()).args(arguments).env("STATE_DIRECTORY", self.folder.path());
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    fn run_to_end(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        for text in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(text).contains(SECRET), "a secret was printed by {arguments:?}");
        }
        output
    }

    fn start_daemon(&self) -> Daemon {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        Daemon(self.command(&["run", "--log-format", "json"]).stderr(log).spawn().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// A pool on the daemon's private database, as `psql` would reach it.
    async fn pool(&self) -> PgPool {
        let options = PgConnectOptions::new_without_pgpass().socket(self.folder.path().join("pg/socket"));
        let options = options.username("incident_sync").database("incident_sync");
        eventually("the private Postgres answers", async || PgPool::connect_with(options.clone()).await.ok()).await
    }

    async fn assert_truth(&self, pool: &PgPool, number: u128) {
        let expected = truth::expected(&self.simulator.world().truth(id(number)));
        truth::assert_same(&truth::stored(pool, id(number)).await, &expected, &number.to_string());
    }

    /// Servers that work in this site's data directory.
    fn servers(&self) -> usize {
        let data = self.folder.path().join("pg/data");
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.filter(|process| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data)).count()
    }
}

struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    /// Waits for the promised ten seconds.
    fn end(mut self) -> std::process::ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "the daemon did not end within ten seconds");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Polls until there is a value; bounded, so that a failure says what never came.
async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap_or(-1)
}

fn proc_text(pid: u32, file: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(Path::new("/proc").join(pid.to_string()).join(file)).unwrap()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn the_daemon_serves_reloads_and_ends_within_ten_seconds() {
    let site = Site::with(vec![
        spec(1, 150),
        spec(2, 30),
        TenantSpec { behaviour: Behaviour { hang: true, ..Behaviour::default() }, ..spec(3, 5) },
    ])
    .await;
    let names = |numbers: &[u128]| numbers.iter().map(|number| format!("tenant-{number}")).collect::<Vec<_>>();
    site.configure(&names(&[1, 3]), "");
    let socket = site.folder.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let heard = || {
        let mut buffer = [0; 512];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let log = std::fs::File::create(site.log()).unwrap();
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000").stderr(log);
    let daemon = Daemon(command.spawn().unwrap());
    assert!(heard().contains("READY=1"));
    while !heard().contains("WATCHDOG=1") {}

    let pool = site.pool().await;
    eventually("the first tenant's rows", async || {
        (count(&pool, "SELECT count(*) FROM defender.incidents").await == 150).then_some(())
    })
    .await;
    let client = incident_sync::http::client();
    let get = async |path: &str| {
        client.get(format!("http://{}{path}", site.listen())).send().await.unwrap().text().await.unwrap()
    };
    assert_eq!(get("/healthz").await, "ok\n");
    assert_eq!(get("/readyz").await, "ready\n");
    eventually("the run's metrics", async || {
        get("/metrics").await.contains("incident_sync_passes_total{").then_some(())
    })
    .await;
    let metrics = get("/metrics").await;
    for name in [
        "tenant_freshness_seconds{tenant=\"tenant-1\"}",
        "tenant_up",
        "api_calls_total",
        "incidents_written_total",
        "token_requests_total",
        "build_info",
    ] {
        assert!(metrics.contains(&format!("incident_sync_{name}")), "{name} is missing in {metrics}");
    }

    // A bad file is refused, and the old one goes on.
    site.configure(&names(&[1]), "[sync]\nconcurency = 3\n");
    daemon.signal(Signal::SIGHUP);
    eventually("the refusal", async || {
        std::fs::read_to_string(site.log()).unwrap().contains("the old one goes on").then_some(())
    })
    .await;
    assert!(site.simulator.world().update(id(1), 7));
    eventually("the change", async || {
        (count(
            &pool,
            "SELECT count(*) FROM defender.incident_payloads p JOIN defender.incidents i USING (incident_id)
        WHERE incident_id = 7 AND i.changed_at > i.first_synced_at",
        )
        .await
            == 1)
            .then_some(())
    })
    .await;

    // A good one adds a tenant and removes another.
    site.configure(&names(&[2, 3]), "");
    daemon.signal(Signal::SIGHUP);
    eventually("the new tenant's rows", async || {
        (count(&pool, "SELECT count(*) FROM defender.incidents").await == 180).then_some(())
    })
    .await;
    assert_eq!(count(&pool, "SELECT count(*) FROM defender.tenants WHERE removed_at IS NOT NULL").await, 1);

    let status = site.run_to_end(&["status", "--json"]);
    let status: Vec<Value> = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status.iter().filter(|tenant| tenant["incidents"].as_i64() > Some(0)).count(), 2);
    for file in ["cmdline", "environ"] {
        assert!(!proc_text(daemon.0.id(), file).contains(SECRET));
    }
    pool.close().await;
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
    assert_eq!(site.servers(), 0, "Postgres ends with the daemon");
    let log = std::fs::read_to_string(site.log()).unwrap();
    assert!(!log.contains(SECRET) && !metrics.contains(SECRET));
    let done = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("every line is JSON"));
    assert!(
        done.filter(|line| line["message"].as_str().is_some_and(|message| message.starts_with("tenant run done")))
            .all(|line| line["tenant.id"].is_string() && line["outcome"].is_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_is_killed_again_and_again_ends_complete() {
    let site = Site::with(vec![spec(1, 900), spec(2, 500)]).await;
    let slowly = || std::iter::repeat_with(|| Reply::Delay(Duration::from_millis(60))).take(400).collect();
    for number in [1, 2] {
        site.simulator.world().script(id(number), Endpoint::Incidents, slowly());
    }
    let mut last = 0;
    for kills in 1..=6 {
        let daemon = site.start_daemon();
        let pool = site.pool().await;
        let progress = async || {
            let now = count(&pool, "SELECT count(*) FROM defender.incidents").await;
            (now > last || now == 1_400).then_some(now)
        };
        last = eventually("progress", progress).await;
        assert_eq!(
            count(&pool, "SELECT count(*) FROM defender.sync_state s JOIN defender.tenants t USING (tenant_id)").await,
            2
        );
        assert_watermark_behind_data(&site, &pool).await;
        pool.close().await;
        daemon.signal(Signal::SIGKILL);
        drop(daemon);
        eventually("the orphaned Postgres is gone", async || (site.servers() == 0).then_some(())).await;
        if last == 1_400 {
            assert!(kills > 2, "the kills came too late to hit the backfill");
            break;
        }
    }
    let daemon = site.start_daemon();
    let pool = site.pool().await;
    eventually("the whole history", async || {
        (count(&pool, "SELECT count(*) FROM defender.sync_state WHERE backfilled_at IS NOT NULL").await == 2)
            .then_some(())
    })
    .await;
    site.assert_truth(&pool, 1).await;
    site.assert_truth(&pool, 2).await;
    pool.close().await;
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
}

/// Every incident that is older than its tenant's watermark is stored.
async fn assert_watermark_behind_data(site: &Site, pool: &PgPool) {
    for number in [1, 2] {
        let watermark: Option<chrono::DateTime<chrono::Utc>> =
            sqlx::query_scalar("SELECT watermark FROM defender.sync_state WHERE tenant_id = $1")
                .bind(id(number))
                .fetch_one(pool)
                .await
                .unwrap();
        let stored: Vec<i64> = sqlx::query_scalar("SELECT incident_id FROM defender.incidents WHERE tenant_id = $1")
            .bind(id(number))
            .fetch_all(pool)
            .await
            .unwrap();
        for incident in site.simulator.world().truth(id(number)) {
            let updated =
                incident["lastUpdateTime"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
            let incident_id = incident["incidentId"].as_i64().unwrap();
            assert!(
                Some(updated) >= watermark || stored.contains(&incident_id),
                "{incident_id} is missing below the watermark"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_tell_by_their_exit_status_what_happened() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let site = Site::with(vec![spec(1, 120), TenantSpec { behaviour: without_consent, ..spec(2, 5) }]).await;
    let sync = site.run_to_end(&["sync", "--json"]);
    assert_eq!(sync.status.code(), Some(1));
    let summary: Value = serde_json::from_slice(&sync.stdout).expect("standard output holds nothing but the summary");
    assert_eq!(summary["tenants"][0]["incidents_written"], 120);
    assert_eq!(summary["tenants"][1]["who_must_act"], "customer_admin");

    let name_and_id = [
        site.run_to_end(&["sync", "--tenant", "tenant-1"]),
        site.run_to_end(&["sync", "--tenant", &id(1).to_string(), "--full", "--json"]),
    ];
    assert!(name_and_id.iter().all(|output| output.status.success()));
    let full: Value = serde_json::from_slice(&name_and_id[1].stdout).unwrap();
    assert_eq!(
        (&full["tenants"][0]["incidents_written"], full["tenants"][0]["incidents_seen"].as_u64() >= Some(120)),
        (&Value::from(0), true)
    );
    assert_eq!(site.run_to_end(&["sync", "--tenant", "nobody"]).status.code(), Some(2));
    assert_eq!(site.run_to_end(&["sync", "--tenant", "tenant-1", "--since", "yesterday"]).status.code(), Some(2));

    let check = site.run_to_end(&["check", "--json"]);
    assert_eq!(check.status.code(), Some(1));
    let findings: Vec<Value> = serde_json::from_slice(&check.stdout).unwrap();
    let of = |what: &str| findings.iter().find(|finding| finding["what"] == what).unwrap();
    assert_eq!(
        (&of("tenant-1")["result"], &of("tenant-2")["who"], &of("database")["result"]),
        (&"ok".into(), &"customer_admin".into(), &"ok".into())
    );

    let status = site.run_to_end(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("customer_admin"));
    assert!(site.run_to_end(&["migrate"]).status.success());
    let tenants: Vec<Value> = serde_json::from_slice(&site.run_to_end(&["tenant", "list", "--json"]).stdout).unwrap();
    assert_eq!(tenants.len(), 2);
    let link = String::from_utf8(site.run_to_end(&["consent-url", "--tenant", "tenant-2"]).stdout).unwrap();
    assert!(
        link.contains(&format!("/{}/v2.0/adminconsent?client_id=", id(2))) && link.contains(".default&redirect_uri="),
        "{link}"
    );

    site.configure(&["tenant-1".to_owned()], "[[tenants]]\nid = \"x\"\nname = \"\"\n[sink]\n");
    let broken = site.run_to_end(&["sync"]);
    assert_eq!(broken.status.code(), Some(2));
    let told = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert!(["tenants[1]", "name", "sink"].iter().all(|word| told.contains(word)), "all mistakes at once: {told}");

    let dead = site.head.replace("[database]\n", "[database]\nurl = \"postgres://nobody@127.0.0.1:1/none\"\n#");
    std::fs::write(site.config(), dead).unwrap();
    assert_eq!(site.run_to_end(&["status"]).status.code(), Some(3));
    let no_programs =
        site.head.replace("[database]\n", "[database]\npostgres_bin = \"/var/empty\"\n").replace("/pg\"", "/pg2\"");
    std::fs::write(site.config(), no_programs).unwrap();
    let missing = site.run_to_end(&["status"]);
    assert_eq!(missing.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("postgresql"),
        "{}",
        String::from_utf8_lossy(&missing.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_ends_by_itself_or_by_a_signal() {
    let folder = open_folder();
    let demo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_incident-sync"));
        command
            .arg("demo")
            .args(arguments)
            .env("STATE_DIRECTORY", folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let once = demo(&["--once", "--incidents", "40"]).output().unwrap();
    assert!(once.status.success());
    let text = String::from_utf8_lossy(&once.stdout).into_owned();
    for part in [
        "contoso",
        "customer_admin",
        "throttled",
        "Open incidents by tenant",
        "Devices with the most alerts",
        "How current each tenant is",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let out = std::fs::File::create(folder.path().join("out")).unwrap();
    let daemon = Daemon(demo(&["--incidents", "40"]).stdout(out).spawn().unwrap());
    let arrived = async || {
        let text = std::fs::read_to_string(folder.path().join("out")).unwrap();
        let counts = text.lines().filter_map(|line| line.split_once(" incidents (+")?.0.parse::<u32>().ok());
        (text.contains("psql -h ") && counts.max() >= Some(440)).then_some(())
    };
    eventually("rows of the eleven tenants that can be read", arrived).await;
    daemon.signal(Signal::SIGINT);
    assert!(daemon.end().success());
    let data = folder.path().join("demo/data");
    let left = std::fs::read_dir("/proc").unwrap().flatten();
    assert_eq!(
        left.filter(|process| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data)).count(),
        0
    );
}
