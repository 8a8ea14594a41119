//! How the real binary bears many tenants for a long time: the first half of it in calm, the second half with a tenth of
//! the tenants broken in ten ways. Default settings, but for a poll each minute. Ends with status 1 where memory,
//! descriptors or connections exceed their limits, or the daemon does not end as it should.
//!
//! `cargo bench --bench soak -- --minutes 15 --tenants 1000`

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use incident_sync::postgres::{Embedded, EmbeddedSettings, Hold};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use simulator::{
    Behaviour, Encoding, Endpoint, Options, ScriptedReply, Simulator, TenantSpec, World,
};
use sqlx::PgPool;
use uuid::Uuid;

const INCIDENTS_A_TENANT: usize = 10;
const CHANGES_A_SECOND: usize = 5;
const SAMPLE: Duration = Duration::from_secs(1);
/// One of so many tenants is broken, in one of the ways of [`break_tenant`].
const BROKEN: usize = 10;
const WAYS: usize = 10;
/// Length of the longest incidents, and how many of them a page of such a tenant holds at most: all but the 64 MiB that a
/// page may have.
const GIANT_BYTES: usize = 12_000_000;
const GIANTS_MAX: usize = 4;
/// 256 for itself, and the one large page that may be in memory.
const MEMORY_MIB: f64 = 256.0 + 48.0;
/// Of all tenants, as a person waits for it.
const PAGE_MS: f64 = 300.0;
/// Descriptors and connections may differ by this much between two calm moments.
const SLACK: usize = 24;
const DATABASE_CONNECTIONS: usize = 4;
const END: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let (minutes, tenants) =
        (argument("--minutes").unwrap_or(15), argument("--tenants").unwrap_or(1_000));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    if runtime.block_on(soak(Duration::from_secs(minutes * 60), tenants)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn argument<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)?.parse().ok()
}

async fn soak(length: Duration, tenants: usize) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // Postgres runs as another user when we are root.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))
        .expect("the folder is ours");
    let settings = EmbeddedSettings { dir: folder.path().join("pg"), postgres_bin: None };
    let server = Embedded::start(&settings, Hold::Daemon).await.expect("Postgres starts");
    let pool = PgPool::connect_with(server.connect_options().application_name("soak"))
        .await
        .expect("Postgres answers");
    let options = Options { encoding: Encoding::Gzip, ..Options::default() };
    let simulator = Simulator::start(options).await.expect("the simulator starts");
    let world = simulator.world().clone();
    let seed = move || (0..tenants).for_each(|at| world.add_tenant(spec(at)));
    tokio::task::spawn_blocking(seed).await.expect("seeding does not panic");

    let listen = free_address();
    let config = write_config(folder.path(), &settings.dir, &simulator, tenants, listen);
    let mut daemon = Daemon {
        child: start(&config, &folder.path().join("log")),
        page: format!("http://{listen}/"),
    };
    let world = simulator.world();
    let started = first_load(&pool, &daemon, tenants).await;
    println!("{tenants} tenants, {length:?} in all; the first load took {started:.0?}\n");
    let calm =
        phase(Phase { is_broken: false, length: length / 2, tenants }, world, &pool, &daemon).await;
    let broken =
        phase(Phase { is_broken: true, length: length / 2, tenants }, world, &pool, &daemon).await;
    let ended = daemon.end().await;

    println!("| | without faults | with faults |\n|---|---|---|");
    calm.print_beside(&broken);
    let mut faults = broken.faults(&calm);
    faults.extend(ended);
    for fault in &faults {
        println!("FAILED: {fault}");
    }
    pool.close().await;
    simulator.stop().await;
    server.stop().await;
    faults.is_empty()
}

fn tenant_id(at: usize) -> Uuid {
    Uuid::from_u128(0xbe_0000_0000_4000_8000_0000_0000_0000 + at as u128)
}

/// Each of the ways to be broken meets tenants of both sources.
fn is_on_graph(at: usize) -> bool {
    (at / BROKEN / WAYS + at).is_multiple_of(2)
}

/// The service grants a little more than is documented, so that our own quota is what holds.
fn spec(at: usize) -> TenantSpec {
    let spec = TenantSpec::new(tenant_id(at), &format!("tenant-{at}"));
    TenantSpec { incidents: INCIDENTS_A_TENANT, ..spec }
}

fn free_address() -> SocketAddr {
    let bound =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.expect("some port is free")
}

fn write_config(
    folder: &Path,
    database: &Path,
    simulator: &Simulator,
    tenants: usize,
    listen: SocketAddr,
) -> PathBuf {
    let Options { client_id, client_secret, .. } = Options::default();
    let url = simulator.url();
    let mut text = format!(
        "[database]\nurl = \"postgres://incident_sync@localhost/incident_sync?host={}\"\n\
         [schedule]\npoll = \"0 * * * * *\"\n[http]\nlisten = \"{listen}\"\n\
         [app]\nclient_id = \"{client_id}\"\nclient_secret = \"{client_secret}\"\n\
         [api]\nauthority = \"{url}\"\nbase_url = \"{url}\"\n",
        database.join("socket").display()
    );
    for at in 0..tenants {
        text.push_str(&format!(
            "[[tenants]]\nid = \"{}\"\nname = \"tenant-{at}\"\n",
            tenant_id(at)
        ));
        if is_on_graph(at) {
            text.push_str("source = \"graph\"\n");
        }
    }
    let file = folder.join("incident-sync.toml");
    std::fs::write(&file, text).expect("the folder is ours");
    file
}

fn start(config: &Path, log: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_incident-sync"))
        .args(["run", "--config"])
        .arg(config)
        .env("RUST_LOG", "warn,incident_sync::sync::engine=off")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(log).expect("the folder is ours"))
        .spawn()
        .expect("the binary starts")
}

/// The child; it does not outlive a soak that panics.
struct Daemon {
    child: Child,
    /// Address of the status page.
    page: String,
}

impl Daemon {
    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    /// Of `/proc/PID/status`, in MiB.
    fn memory(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    }

    /// Milliseconds until the page of all tenants is there.
    async fn page(&self, client: &reqwest::Client) -> f64 {
        let asked = Instant::now();
        let answer = client.get(&self.page).send().await.expect("the daemon answers");
        let page = answer
            .error_for_status()
            .expect("the page is there")
            .text()
            .await
            .expect("the page is whole");
        assert!(page.ends_with("</html>"), "the page is whole");
        asked.elapsed().as_secs_f64() * 1_000.0
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).map_or(0, Iterator::count)
    }

    /// What is wrong with its end.
    async fn end(&mut self) -> Option<String> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id is positive"));
        let signalled = Instant::now();
        kill(pid, Signal::SIGTERM).expect("the child is ours");
        while signalled.elapsed() < END {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                println!("SIGTERM ended it within {:.1?}\n", signalled.elapsed());
                return (!status.success()).then(|| format!("the daemon ended with {status}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(format!("the daemon did not end within {END:?}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After the end there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn first_load(pool: &PgPool, daemon: &Daemon, tenants: usize) -> Duration {
    let started = Instant::now();
    let complete = "SELECT count(*) FROM defender.sync_state WHERE backfilled_at IS NOT NULL";
    while count(pool, complete).await < tenants {
        assert!(daemon.memory("VmRSS") > 0.0, "the daemon ended by itself");
        tokio::time::sleep(SAMPLE).await;
    }
    started.elapsed()
}

/// 0 while the tables are not there.
async fn count(pool: &PgPool, query: &'static str) -> usize {
    let count = sqlx::query_scalar::<_, i64>(query).fetch_one(pool).await.unwrap_or(0);
    usize::try_from(count).expect("a count is positive")
}

struct Phase {
    is_broken: bool,
    length: Duration,
    tenants: usize,
}

/// What was seen second by second.
#[derive(Default)]
struct Seen {
    /// Seconds, of each healthy tenant at each look.
    freshness: Vec<f64>,
    memory: Vec<f64>,
    peak: f64,
    descriptors: Vec<usize>,
    connections: Vec<usize>,
    /// Milliseconds.
    pages: Vec<f64>,
    runs: usize,
    failed: usize,
}

async fn phase(phase: Phase, world: &World, pool: &PgPool, daemon: &Daemon) -> Seen {
    let begun = database_clock(pool).await;
    let started = Instant::now();
    let mut seen = Seen::default();
    let client = incident_sync::http_client::client();
    let mut second = 0;
    while started.elapsed() < phase.length {
        for change in 0..CHANGES_A_SECOND {
            let at = (second * CHANGES_A_SECOND + change) * 7 % phase.tenants;
            if !is_broken(at) {
                world.update_random(tenant_id(at));
            }
        }
        if phase.is_broken && second % 60 == 0 {
            (0..phase.tenants).filter(|at| is_broken(*at)).for_each(|at| break_tenant(world, at));
        }
        if second % 5 == 0 {
            seen.freshness.extend(freshness(pool, phase.tenants).await);
            seen.pages.push(daemon.page(&client).await);
        }
        seen.memory.push(daemon.memory("VmRSS"));
        seen.descriptors.push(daemon.descriptors());
        let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'incident-sync'";
        seen.connections.push(count(pool, open).await);
        second += 1;
        tokio::time::sleep_until(
            (started + SAMPLE * u32::try_from(second).expect("a soak ends")).into(),
        )
        .await;
    }
    seen.peak = daemon.memory("VmHWM");
    let runs = "SELECT count(*), count(*) FILTER (WHERE outcome <> 'ok') FROM defender.sync_runs WHERE started_at >= $1";
    let (runs, failed) = sqlx::query_as::<_, (i64, i64)>(runs)
        .bind(begun)
        .fetch_one(pool)
        .await
        .expect("Postgres answers");
    (seen.runs, seen.failed) =
        (usize::try_from(runs).unwrap_or(0), usize::try_from(failed).unwrap_or(0));
    seen
}

async fn database_clock(pool: &PgPool) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await.expect("Postgres answers")
}

/// How old the data of each tenant is that is never broken.
async fn freshness(pool: &PgPool, tenants: usize) -> Vec<f64> {
    let healthy: Vec<Uuid> = (0..tenants).filter(|at| !is_broken(*at)).map(tenant_id).collect();
    let query = "SELECT extract(epoch FROM clock_timestamp() - last_success_at)::float8 FROM defender.sync_state
        WHERE tenant_id = ANY ($1)";
    sqlx::query_scalar(query).bind(healthy).fetch_all(pool).await.expect("Postgres answers")
}

fn is_broken(at: usize) -> bool {
    at.is_multiple_of(BROKEN)
}

/// Once a minute, because most of these faults are used up.
fn break_tenant(world: &World, at: usize) {
    let tenant = tenant_id(at);
    let endpoint = if is_on_graph(at) { Endpoint::GraphIncidents } else { Endpoint::Incidents };
    let replies = |reply: ScriptedReply| world.script(tenant, endpoint, vec![reply; 3]);
    let behave = |behaviour: Behaviour| world.set_behaviour(tenant, behaviour);
    match at / BROKEN % WAYS {
        0 => replies(ScriptedReply::throttled(20)),
        1 => replies(ScriptedReply::defender(503, "ServiceUnavailable")),
        2 => replies(ScriptedReply::Drip { bytes: 2_000, every: Duration::from_millis(200) }),
        3 => behave(Behaviour { hang: true, ..Behaviour::default() }),
        4 => replies(ScriptedReply::CutBody { after_bytes: 3_000 }),
        5 => behave(Behaviour { consent_missing: true, ..Behaviour::default() }),
        6 => behave(Behaviour { wrong_tid: Some(tenant_id(at + 1)), ..Behaviour::default() }),
        7 => replies(ScriptedReply::Body("<html>Gateway</html>".to_owned())),
        8 => replies(ScriptedReply::ExpireToken),
        _ => (1..=1 + at / BROKEN / WAYS % GIANTS_MAX)
            .for_each(|place| add_giant(world, tenant, place)),
    }
}

/// An incident of twelve megabytes, changed now: many alerts with many entities, as an outbreak makes them.
fn add_giant(world: &World, tenant: Uuid, place: usize) {
    let now = world.now();
    let updated = now.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let line = "powershell.exe -NoProfile -EncodedCommand ".to_owned()
        + &"QWxsIHlvdXIgYmFzZSBhcmUg".repeat(30);
    let mut text = format!(
        r#"{{"incidentId":{},"lastUpdateTime":"{updated}","status":"Active","alerts":["#,
        100_000 + place
    );
    for alert in 0.. {
        text.push_str(&format!(
            r#"{{"alertId":"giant{place}-{alert}","lastUpdatedTime":"{updated}","devices":[],"entities":["#
        ));
        for entity in 0..20 {
            let comma = if entity == 0 { "" } else { "," };
            text.push_str(&format!(
                r#"{comma}{{"entityType":"Process","processId":{entity},"processCommandLine":"{line}{alert}"}}"#
            ));
        }
        text.push_str("]}");
        if text.len() > GIANT_BYTES {
            break;
        }
        text.push(',');
    }
    text.push_str("]}");
    world.add_raw(tenant, i64::try_from(100_000 + place).expect("small"), now, &text);
}

impl Seen {
    fn print_beside(&self, other: &Self) {
        let row = |name: &str, of: &dyn Fn(&Self) -> String| {
            println!("| {name} | {} | {} |", of(self), of(other));
        };
        row("freshness of healthy tenants, p50 s", &|seen| {
            format!("{:.0}", percentile(&seen.freshness, 50))
        });
        row("p99 s", &|seen| format!("{:.0}", percentile(&seen.freshness, 99)));
        row("runs, of them not ok", &|seen| format!("{}, {}", seen.runs, seen.failed));
        row("RSS MiB: begin, highest, end", &|seen| {
            let (first, last) =
                (seen.memory.first().unwrap_or(&0.0), seen.memory.last().unwrap_or(&0.0));
            format!("{first:.0}, {:.0}, {last:.0}", seen.peak)
        });
        row("descriptors: begin, highest, end", &|seen| joined(&seen.descriptors));
        row("status page of all tenants, ms: p50, p99", &|seen| {
            format!("{:.0}, {:.0}", percentile(&seen.pages, 50), percentile(&seen.pages, 99))
        });
        row("connections to Postgres: begin, highest, end", &|seen| joined(&seen.connections));
    }

    /// What went beyond its limit.
    fn faults(&self, calm: &Self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.peak > MEMORY_MIB {
            faults.push(format!("{:.0} MiB of memory, and {MEMORY_MIB:.0} are allowed", self.peak));
        }
        let grown = |seen: &Self, end: &Self| {
            let begin = seen.descriptors.iter().max();
            let end = end.descriptors.last();
            end > begin.map(|begin| begin + SLACK).as_ref()
        };
        if grown(calm, self) {
            faults.push(format!(
                "descriptors grow: {} in calm, {} later",
                joined(&calm.descriptors),
                joined(&self.descriptors)
            ));
        }
        for seen in [calm, self] {
            let page = percentile(&seen.pages, 99);
            if page > PAGE_MS {
                faults.push(format!(
                    "the status page of all tenants took {page:.0} ms, and {PAGE_MS:.0} are allowed"
                ));
            }
            if seen.connections.iter().any(|connections| *connections > DATABASE_CONNECTIONS) {
                faults.push(format!("connections to Postgres: {}", joined(&seen.connections)));
            }
        }
        faults
    }
}

fn joined(numbers: &[usize]) -> String {
    let [first, .., last] = numbers else { return "-".to_owned() };
    format!("{first}, {}, {last}", numbers.iter().max().unwrap_or(last))
}

fn percentile(numbers: &[f64], percent: usize) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(f64::NAN)
}
