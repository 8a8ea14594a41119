//! The commands `demo` and `simulate`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use simulator::{Behaviour, Clock, Encoding, Options, Simulator, TenantSpec, World};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::progress::ProgressBars;
use crate::commands::{output, sync};
use crate::config;
use crate::context::{self, OpenDatabase, SetupError};
use crate::daemon::http::server;
use crate::daemon::signals;
use crate::defender::{CALLS_PER_HOUR, CALLS_PER_MINUTE};
use crate::entra::Tenant;
use crate::entra::credential::{App, Credential};
use crate::http_client;
use crate::postgres::{Embedded, EmbeddedSettings, Hold};
use crate::store::Store;
use crate::store::quota::Quota;
use crate::store::tenants::RemovedTenants;
use crate::sync::engine::{SyncEngine, SyncSettings};
use crate::sync::progress::Progress;
use crate::sync::schedule::{self, Schedule};
use crate::sync::tenant_run::SyncMode;
use crate::telemetry;
use crate::tenant::{Endpoints, Retention, TenantId, TokenVersion};

const DATABASE_CONNECTIONS: u32 = 4;
/// Frequent, so that new rows are seen to arrive.
const POLL: &str = "*/5 * * * * *";
const OPEN: &str = "30 * * * * *";
const RECONCILE: &str = "0 */10 * * * *";

const NAMES: [&str; 12] = [
    "contoso",
    "fabrikam",
    "northwind",
    "adatum",
    "tailspin",
    "wingtip",
    "litware",
    "proseware",
    "woodgrove",
    "alpine",
    "lucerne",
    "margie",
];
/// The customer whose admin has not consented.
const WITHOUT_CONSENT: &str = "lucerne";
/// The customer whose quota another tool has almost used up.
const THROTTLED: &str = "margie";
const THROTTLED_CALLS_PER_MINUTE: u32 = 3;

/// Example queries.
const QUERIES: [(&str, &str); 3] = [
    (
        "Open incidents by tenant and severity",
        "SELECT tenant_name AS tenant, severity, count(*)::text AS open
FROM reporting.open_incidents GROUP BY 1, 2 ORDER BY count(*) DESC, 1 LIMIT 8",
    ),
    (
        "Devices with the most alerts of open incidents",
        "SELECT tenant_name AS tenant, device_dns_name AS device, risk_score AS risk, alert_count::text AS alerts
FROM reporting.devices_at_risk ORDER BY alert_count DESC, 1, 2 LIMIT 5",
    ),
    (
        "How current each tenant is, and who must act",
        "SELECT tenant_name AS tenant, coalesce(date_trunc('second', now() - last_success_at)::text, 'never') AS age,
    coalesce(error_class, 'ok') AS state, coalesce(who_must_act, '') AS who_must_act
FROM reporting.tenant_freshness ORDER BY error_class NULLS LAST, 1 LIMIT 6",
    ),
];

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Synchronize once, print the summary and three queries with their results, then exit.
    #[arg(long)]
    once: bool,
    /// The number of simulated incidents for each tenant.
    #[arg(long, default_value_t = 120)]
    incidents: usize,
}

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The number of tenants.
    #[arg(long, default_value_t = 12)]
    tenants: usize,
    /// The number of incidents for each tenant.
    #[arg(long, default_value_t = 120)]
    incidents: usize,
}

pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    let DemoArgs { once, incidents } = args;
    let database = open_database().await?;
    let simulator =
        start_simulator(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), NAMES.len(), incidents).await?;
    let result = with_services(once, &database, &simulator).await;
    simulator.stop().await;
    database.close().await;
    result
}

async fn with_services(
    once: bool,
    database: &OpenDatabase,
    simulator: &Simulator,
) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let result = if once {
        run_all_once(database, simulator, stop).await
    } else {
        live(database, simulator, stop).await
    };
    signals.abort();
    result
}

/// Empties the database: the simulator generates new incidents at each start, and rows of an earlier one would be newer.
async fn open_database() -> Result<OpenDatabase, Failure> {
    let settings = EmbeddedSettings { dir: config::state_dir().join("demo"), postgres_bin: None };
    let embedded = Embedded::start(&settings, Hold::Daemon).await.map_err(SetupError::from)?;
    let options = embedded.connect_options();
    let empty = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        sqlx::query("DROP SCHEMA IF EXISTS defender CASCADE").execute(&mut connection).await?;
        sqlx::query("DROP TABLE IF EXISTS public._sqlx_migrations")
            .execute(&mut connection)
            .await?;
        connection.close().await
    };
    empty.await.map_err(|error| {
        Failure::Database(format!("cannot empty the database of the demonstration: {error}"))
    })?;
    let store = Store::open(&options, DATABASE_CONNECTIONS, context::instance(), true)
        .await
        .map_err(SetupError::from)?;
    Ok(OpenDatabase { store, embedded: Some(embedded) })
}

/// The simulator alone, until Ctrl-C.
pub async fn simulate(args: SimulateArgs) -> Result<(), Failure> {
    let SimulateArgs { listen, tenants, incidents } = args;
    let simulator = start_simulator(listen, tenants, incidents).await?;
    output::print_line(sample_configuration(&simulator))?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let life = tokio::spawn(live_on(simulator.world().clone()));
    stop.cancelled().await;
    life.abort();
    signals.abort();
    simulator.stop().await;
    Ok(())
}

/// A configuration that reads the simulator, to be piped into a file.
fn sample_configuration(simulator: &Simulator) -> String {
    let Options { client_id, client_secret, .. } = Options::default();
    let url = simulator.url();
    let mut text = format!(
        "[app]\nclient_id = \"{client_id}\"\nclient_secret = \"{client_secret}\"\n\n[api]\nauthority = \"{url}\"\nbase_url = \"{url}\"\n"
    );
    for (at, id) in simulator.world().tenants().into_iter().enumerate() {
        text.push_str(&format!("\n[[tenants]]\nid = \"{id}\"\nname = \"{}\"\n", name(at)));
    }
    text
}

fn name(at: usize) -> String {
    let round = at / NAMES.len();
    let name = NAMES[at % NAMES.len()];
    if round == 0 { name.to_owned() } else { format!("{name}-{round}") }
}

fn tenant_id(at: usize) -> Uuid {
    Uuid::from_u128(0x00de_0000_0000_4000_8000_0000_0000_0000 + at as u128 + 1)
}

async fn start_simulator(
    listen: SocketAddr,
    tenants: usize,
    incidents: usize,
) -> Result<Simulator, Failure> {
    let options =
        Options { listen, clock: Clock::Real, encoding: Encoding::Deflate, ..Options::default() };
    let simulator = Simulator::start(options).await;
    let simulator = simulator.map_err(|error| {
        Failure::Configuration(format!("the simulator cannot listen on {listen}: {error}"))
    })?;
    let world = simulator.world().clone();
    let seed = move || {
        for at in 0..tenants {
            let name = name(at);
            let consent_missing = name == WITHOUT_CONSENT;
            let calls_per_minute =
                if name == THROTTLED { THROTTLED_CALLS_PER_MINUTE } else { CALLS_PER_MINUTE };
            let behaviour = Behaviour { consent_missing, ..Behaviour::default() };
            world.add_tenant(TenantSpec {
                incidents,
                calls_per_minute,
                behaviour,
                ..TenantSpec::new(tenant_id(at), &name)
            });
        }
    };
    tokio::task::spawn_blocking(seed)
        .await
        .map_err(|error| Failure::Configuration(error.to_string()))?;
    Ok(simulator)
}

fn tenants(url: &Url) -> Vec<Arc<Tenant>> {
    let Options { client_id, client_secret, .. } = Options::default();
    let app = Arc::new(App {
        client_id,
        credential: Arc::new(Credential::secret(client_secret.into())),
        next: None,
    });
    let endpoints = Endpoints {
        authority: url.clone(),
        base_url: url.clone(),
        scope: format!("{url}.default"),
        token_version: TokenVersion::V2,
    };
    let tenant = |at| {
        let (id, name, labels) =
            (TenantId(tenant_id(at)), name(at), std::collections::BTreeMap::new());
        let (endpoints, app, retention) =
            (endpoints.clone(), Arc::clone(&app), Retention::default());
        Arc::new(Tenant { id, name, labels, enabled: true, endpoints, app, retention })
    };
    (0..NAMES.len()).map(tenant).collect()
}

async fn engine(
    database: &OpenDatabase,
    url: &Url,
    progress: Progress,
    stop: CancellationToken,
) -> Result<Arc<SyncEngine>, Failure> {
    let tenants = tenants(url);
    database
        .store
        .sync_tenants(&tenants, RemovedTenants::AllOthers)
        .await
        .map_err(SetupError::from)?;
    let quota = Quota::new(CALLS_PER_MINUTE, CALLS_PER_HOUR);
    let client = http_client::client();
    let services =
        context::services_of(client, database.store.clone(), quota, DATABASE_CONNECTIONS);
    let schedule =
        Schedule::new(POLL, OPEN, RECONCILE).expect("the demonstration's cron lines are constants");
    let settings = SyncSettings {
        are_all: true,
        tenants: tenants.into_iter().map(|tenant| (tenant.id.0, tenant)).collect::<HashMap<_, _>>(),
        concurrency: 8,
        overlap: Duration::from_secs(60),
        lookback: Duration::from_secs(180 * 86_400),
        reconcile: Duration::from_secs(7 * 86_400),
        schedule,
    };
    Ok(Arc::new(SyncEngine::new(services, settings, progress, stop)))
}

async fn run_all_once(
    database: &OpenDatabase,
    simulator: &Simulator,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let bars = ProgressBars::new(NAMES.len());
    let engine = engine(database, &simulator.url(), bars.observer(), stop).await?;
    let started = Instant::now();
    let results = engine
        .run_once(&simulator.world().tenants(), SyncMode::Incremental)
        .await
        .map_err(SetupError::from)?;
    bars.clear();
    output::print_line(format_args!(
        "Synchronized {} simulated tenants in {:.1} s. {WITHOUT_CONSENT} has not consented and",
        results.len(),
        started.elapsed().as_secs_f64()
    ))?;
    output::print_line(format_args!(
        "{THROTTLED} is throttled by the service. Both fail on purpose and delay no other tenant.\n"
    ))?;
    output::print_line(sync::table(&results) + "\n")?;
    for (question, sql) in QUERIES {
        output::print_line(format_args!(
            "{question}\n{sql};\n{}\n",
            answer(database.store.pool(), sql).await?
        ))?;
    }
    output::print_line(format_args!(
        "To query the rows with psql, run `demo` without --once; it recreates the data and runs until Ctrl-C."
    ))?;
    Ok(())
}

/// Runs a query whose columns are all text.
async fn answer(pool: &PgPool, sql: &'static str) -> Result<String, Failure> {
    use sqlx::{Column, Row};
    let rows = sqlx::query(sql).fetch_all(pool).await;
    let rows = rows.map_err(|error| Failure::Database(format!("the query failed: {error}")))?;
    let columns = rows.first().map_or(&[][..], |first| first.columns());
    let mut table = output::table(columns.iter().map(|column| column.name()));
    for row in &rows {
        let cell =
            |at: usize| row.try_get::<Option<String>, _>(at).ok().flatten().unwrap_or_default();
        table.add_row((0..row.len()).map(cell));
    }
    Ok(table.to_string())
}

async fn live(
    database: &OpenDatabase,
    simulator: &Simulator,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let metrics = telemetry::start_metrics();
    let engine = engine(database, &simulator.url(), Progress::hidden(), stop.clone()).await?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let address = server::start(listen, &engine, metrics, stop.clone()).await;
    let address = address.map_err(|error| {
        Failure::Configuration(format!("cannot listen on a local port: {error}"))
    })?;
    let psql = database.embedded.as_ref().map(Embedded::psql_line).unwrap_or_default();
    output::print_line(format_args!(
        "incident-sync demo: {} simulated tenants at {}, read every 5 s into a private Postgres.",
        NAMES.len(),
        simulator.url()
    ))?;
    output::print_line(format_args!(
        "{WITHOUT_CONSENT} has not consented and {THROTTLED} is throttled. Both fail on purpose and delay no other tenant.\n"
    ))?;
    output::print_line(format_args!("Query the rows:\n  {psql}\n\nThree queries to try:"))?;
    for (question, sql) in QUERIES {
        output::print_line(format_args!("\n-- {question}\n{sql};"))?;
    }
    output::print_line(format_args!(
        "\nStatus page: http://{address}/\nMetrics: http://{address}/metrics\nPress Ctrl-C to stop.\n"
    ))?;
    let wake = Arc::new(Notify::new());
    let ticks = schedule::start_ticks([POLL, OPEN, RECONCILE], &wake).await;
    let mut ticks = ticks
        .map_err(|error| Failure::Configuration(format!("the schedule did not start: {error}")))?;
    let life = tokio::spawn(live_on(simulator.world().clone()));
    let watch = tokio::spawn(print_totals(database.store.pool().clone()));
    engine.run(&wake).await.map_err(SetupError::from)?;
    life.abort();
    watch.abort();
    drop(ticks.shutdown().await);
    output::print_line(format_args!("\nstopped"))?;
    Ok(())
}

/// One change in some tenant every second.
async fn live_on(world: World) {
    let tenants = world.tenants();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for tenant in tenants.iter().cycle() {
        tick.tick().await;
        world.live(*tenant, 1);
    }
}

/// A line whenever rows arrived.
async fn print_totals(pool: PgPool) {
    const TOTALS: &str =
        "SELECT (SELECT count(*) FROM defender.incidents), (SELECT count(*) FROM defender.alerts),
        (SELECT count(*) FROM defender.evidence), (SELECT count(*) FROM defender.incident_changes)";
    let mut last = (0, 0, 0, 0);
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        let Ok(now) = sqlx::query_as::<_, (i64, i64, i64, i64)>(TOTALS).fetch_one(&pool).await
        else {
            continue;
        };
        if now != last {
            let printed = output::print_line(format_args!(
                "{} incidents (+{}), {} alerts, {} evidence rows, {} observed changes",
                now.0,
                now.0 - last.0,
                now.1,
                now.2,
                now.3
            ));
            drop(printed); // A closed reader does not end the demonstration.
            last = now;
        }
    }
}
