//! How long the real binary takes to synchronise simulated tenants into a real Postgres with fsync on:
//! a first load, a pass that finds nothing changed, and one that finds 1 % changed, from the Defender API and then from
//! Graph, with the same incidents in both.
//!
//! `cargo bench --bench sync -- [TENANTS] [INCIDENTS]`, 50 x 1,000 unless told otherwise.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use incident_sync::postgres::{Embedded, EmbeddedSettings, Hold};
use simulator::{Clock, Encoding, Options, Simulator, TenantSpec};
use sqlx::PgPool;
use uuid::Uuid;

const CLOCK_TICKS_A_SECOND: f64 = 100.0;

fn main() {
    let mut numbers =
        std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let tenants = numbers.next().unwrap_or(50);
    let incidents = numbers.next().unwrap_or(1_000);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(bench(tenants, incidents));
}

async fn bench(tenants: usize, incidents: usize) {
    let simulator = start_simulator(tenants, incidents).await;
    println!("{tenants} tenants x {incidents} incidents\n");
    println!(
        "| pass | seconds | incidents/s | rows/s | CPU s (incident-sync + Postgres) | peak RSS MB | WAL MB | calls |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for source in ["defender", "graph"] {
        bench_source(source, &simulator, tenants, incidents).await;
    }
    simulator.stop().await;
}

/// All passes from one source, in a database of its own.
async fn bench_source(source: &str, simulator: &Simulator, tenants: usize, incidents: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // Postgres runs as another user when we are root.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))
        .expect("the folder is ours");
    let settings = EmbeddedSettings { dir: folder.path().join("pg"), postgres_bin: None };
    let server = Embedded::start(&settings, Hold::Daemon).await.expect("Postgres starts");
    let config = write_config(folder.path(), &settings.dir, simulator, tenants, source);
    let pool = PgPool::connect_with(server.connect_options()).await.expect("Postgres answers");
    let measure = async |name: &str| {
        prepare(simulator).await;
        measure(&format!("{source}: {name}"), &config, &settings.dir, &pool).await;
    };
    measure("first load").await;
    for _ in 0..3 {
        simulator.world().advance(Duration::from_secs(300));
        measure("nothing changed").await;
    }
    for _ in 0..3 {
        simulator.world().advance(Duration::from_secs(300));
        change_one_percent(simulator, incidents);
        simulator.world().advance(Duration::from_secs(300));
        measure("1 % changed").await;
    }
    pool.close().await;
    server.stop().await;
}

/// Renders what Graph will serve, which the service would have done long ago.
async fn prepare(simulator: &Simulator) {
    let world = simulator.world().clone();
    let render = move || world.tenants().into_iter().for_each(|tenant| world.prepare_graph(tenant));
    tokio::task::spawn_blocking(render).await.expect("rendering does not panic");
}

async fn start_simulator(tenants: usize, incidents: usize) -> Simulator {
    // Behind the database's clock although it is moved on.
    let now = DateTime::<Utc>::from(SystemTime::now() - Duration::from_secs(6 * 3600));
    let options =
        Options { clock: Clock::Manual(now), encoding: Encoding::Identity, ..Options::default() };
    let simulator = Simulator::start(options).await.expect("the simulator starts");
    let world = simulator.world().clone();
    let seed = move || {
        for at in 0..tenants {
            let quota = 1_000_000;
            let spec = TenantSpec::new(tenant_id(at), &format!("tenant-{at}"));
            world.add_tenant(TenantSpec {
                incidents,
                calls_per_minute: quota,
                calls_per_hour: quota,
                graph_calls_per_minute: quota,
                ..spec
            });
        }
    };
    tokio::task::spawn_blocking(seed).await.expect("seeding does not panic");
    simulator
}

fn tenant_id(at: usize) -> Uuid {
    Uuid::from_u128(0xbe_0000_0000_4000_8000_0000_0000_0000 + at as u128)
}

fn change_one_percent(simulator: &Simulator, incidents: usize) {
    let world = simulator.world();
    for tenant in world.tenants() {
        for id in 1..=(incidents / 100).max(1) {
            world.update(tenant, i64::try_from(id * 100 % incidents + 1).expect("a small number"));
        }
    }
}

fn write_config(
    folder: &Path,
    database: &Path,
    simulator: &Simulator,
    tenants: usize,
    source: &str,
) -> PathBuf {
    let Options { client_id, client_secret, .. } = Options::default();
    let url = simulator.url();
    let mut text = format!(
        "[database]\nembedded_dir = \"{}\"\n[app]\nclient_id = \"{client_id}\"\nclient_secret = \"{client_secret}\"\n\
         [api]\nsource = \"{source}\"\nauthority = \"{url}\"\nbase_url = \"{url}\"\n\
         [sync]\ncalls_per_minute = 1000000\ncalls_per_hour = 1000000\n\
         graph_calls_per_minute = 1000000\n",
        database.display()
    );
    for at in 0..tenants {
        text.push_str(&format!(
            "[[tenants]]\nid = \"{}\"\nname = \"tenant-{at}\"\n",
            tenant_id(at)
        ));
    }
    let file = folder.join("incident-sync.toml");
    std::fs::write(&file, text).expect("the folder is ours");
    file
}

async fn measure(name: &str, config: &Path, database: &Path, pool: &PgPool) {
    let (wal, rows, cpu) =
        (wal_bytes(pool).await, row_versions(pool).await, postgres_cpu(database));
    let mut child = Command::new(env!("CARGO_BIN_EXE_incident-sync"))
        .args(["sync", "--json", "--config"])
        .arg(config)
        .env("RUST_LOG", "off")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let pid = child.id();
    let mut peak_kb = 0;
    let mut own_cpu = 0.0;
    while child.try_wait().expect("the child is ours").is_none() {
        peak_kb = peak_rss_kb(pid).unwrap_or(0).max(peak_kb);
        own_cpu = cpu_seconds(pid).unwrap_or(0.0).max(own_cpu);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let output = child.wait_with_output().expect("the child is ours");
    let summary: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("sync prints JSON");
    assert_eq!(summary["ok"], true, "{summary}");
    let sum = |key: &str| {
        let tenants = summary["tenants"].as_array().into_iter().flatten();
        tenants.filter_map(|tenant| tenant[key].as_u64()).sum::<u64>()
    };
    // Backends flush their statistics within a second of going idle.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let seconds = summary["seconds"].as_f64().unwrap_or(f64::NAN);
    let rows = row_versions(pool).await - rows;
    println!(
        "| {name} | {seconds:.3} | {:.0} | {:.0} | {own_cpu:.2} + {:.2} | {:.0} | {:.1} | {} |",
        sum("incidents_written") as f64 / seconds,
        rows as f64 / seconds,
        postgres_cpu(database) - cpu,
        f64::from(peak_kb) / 1024.0,
        (wal_bytes(pool).await - wal) / 1e6,
        sum("api_calls"),
    );
}

async fn wal_bytes(pool: &PgPool) -> f64 {
    let lsn = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::double precision";
    sqlx::query_scalar(lsn).fetch_one(pool).await.expect("Postgres answers")
}

async fn row_versions(pool: &PgPool) -> i64 {
    let count = "SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = 'defender'";
    sqlx::query_scalar(count).fetch_one(pool).await.expect("Postgres answers")
}

fn peak_rss_kb(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .ok()
}

/// Fields of `/proc/PID/stat` from the parent's id on.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(
        stat.rsplit_once(") ")?
            .1
            .split(' ')
            .skip(1)
            .map(|field| field.parse().unwrap_or(0))
            .collect(),
    )
}

fn cpu_seconds(pid: u32) -> Option<f64> {
    let fields = stat(pid)?;
    Some(fields[10..=11].iter().sum::<u64>() as f64 / CLOCK_TICKS_A_SECOND)
}

/// Of the postmaster, of the backends that it has reaped, and of those alive.
fn postgres_cpu(database: &Path) -> f64 {
    let pid_file =
        std::fs::read_to_string(database.join("data/postmaster.pid")).unwrap_or_default();
    let postmaster: u32 = pid_file.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0);
    let Some(own) = stat(postmaster) else { return f64::NAN };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children: u64 = pids
        .filter_map(stat)
        .filter(|fields| fields[0] == u64::from(postmaster))
        .map(|fields| fields[10] + fields[11])
        .sum();
    (own[10..=13].iter().sum::<u64>() + children) as f64 / CLOCK_TICKS_A_SECOND
}
