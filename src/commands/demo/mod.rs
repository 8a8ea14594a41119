//! The command `demo`.

mod queries;
mod simulate;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use simulator::{Options, Simulator};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use simulate::{SimulateArgs, simulate};

use crate::commands::exit::Failure;
use crate::commands::progress::ProgressBars;
use crate::commands::{output, sync};
use crate::config;
use crate::context::{self, OpenDatabase, SetupError};
use crate::daemon::http::server;
use crate::daemon::http::status_page::StatusPage;
use crate::daemon::signals;
use crate::entra::Tenant;
use crate::entra::credential::{App, Credential};
use crate::http_client;
use crate::postgres::{Embedded, EmbeddedSettings, Hold};
use crate::store::Store;
use crate::store::quota::{Quota, Quotas};
use crate::store::tenants::RemovedTenants;
use crate::sync::engine::{SyncEngine, SyncSettings};
use crate::sync::progress::Progress;
use crate::sync::schedule::{self, Schedule};
use crate::sync::tenant_run::SyncMode;
use crate::telemetry;
use crate::tenant::{Endpoints, Source, TenantId, TokenVersion};
use queries::{QUERIES, answer, print_totals};
use simulate::{
    NAMES, ON_GRAPH, THROTTLED, WITHOUT_CONSENT, change_incidents, name, start_simulator, tenant_id,
};

const DATABASE_CONNECTIONS: u32 = 4;
/// Frequent, so that a reader sees new rows arrive.
const POLL: &str = "*/5 * * * * *";
const OPEN: &str = "30 * * * * *";
const RECONCILE: &str = "0 */10 * * * *";

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Sync once, print the summary and three queries with their results, then exit.
    #[arg(long)]
    once: bool,
    /// The number of simulated incidents for each tenant.
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

/// Empties the database, because rows of an earlier start would be newer than the incidents of this one.
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

fn tenants(url: &Url) -> Vec<Arc<Tenant>> {
    let Options { client_id, client_secret, .. } = Options::default();
    let app = Arc::new(App {
        client_id,
        credential: Arc::new(Credential::secret(client_secret.into())),
        next: None,
    });
    let endpoints = Endpoints {
        authority: url.clone(),
        source: Source::Defender,
        base_url: url.clone(),
        scope: format!("{url}.default"),
        other_scope: None,
        token_version: TokenVersion::V2,
    };
    let tenant = |at| {
        let (id, name) = (TenantId(tenant_id(at)), name(at));
        let is_on_graph = ON_GRAPH.contains(&name.as_str());
        let source = if is_on_graph { Source::Graph } else { Source::Defender };
        let endpoints = Endpoints { source, ..endpoints.clone() };
        Arc::new(Tenant::with_defaults(id, &name, endpoints, Arc::clone(&app)))
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
    let quotas = Quotas {
        defender: Quota::documented(Source::Defender),
        graph: Quota::documented(Source::Graph),
    };
    let client = http_client::client();
    let services =
        context::services_of(client, database.store.clone(), quotas, DATABASE_CONNECTIONS);
    let schedule =
        Schedule::new(POLL, OPEN, RECONCILE).expect("the demonstration's cron lines are constants");
    let settings = SyncSettings {
        are_all: true,
        tenants: tenants.into_iter().map(|tenant| (tenant.id.0, tenant)).collect::<HashMap<_, _>>(),
        concurrency: 8,
        overlap: Duration::from_secs(60),
        recheck: Duration::from_secs(6 * 3600),
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
        "Synced {} simulated tenants in {:.1} s. {WITHOUT_CONSENT} has not consented and",
        results.len(),
        started.elapsed().as_secs_f64()
    ))?;
    output::print_line(format_args!(
        "{THROTTLED} is throttled by the service. Both fail on purpose and delay no other tenant."
    ))?;
    print_sources()?;
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

fn print_sources() -> Result<(), Failure> {
    let [first, second] = ON_GRAPH;
    output::print_line(format_args!(
        "{first} and {second} are read from Microsoft Graph, the others from the Defender API.\n"
    ))
}

async fn live(
    database: &OpenDatabase,
    simulator: &Simulator,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let metrics = telemetry::start_metrics();
    let engine = engine(database, &simulator.url(), Progress::hidden(), stop.clone()).await?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let page = Arc::new(StatusPage::new(Arc::clone(&engine)));
    let address = server::start(listen, page, database.store.clone(), metrics, stop.clone()).await;
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
        "{WITHOUT_CONSENT} has not consented and {THROTTLED} is throttled. Both fail on purpose and delay no other tenant."
    ))?;
    print_sources()?;
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
    let changes = tokio::spawn(change_incidents(simulator.world().clone()));
    let totals = tokio::spawn(print_totals(database.store.pool().clone()));
    engine.run(&wake).await.map_err(SetupError::from)?;
    changes.abort();
    totals.abort();
    let _ = ticks.shutdown().await;
    output::print_line(format_args!("\nStopped."))?;
    Ok(())
}
