//! Start, run and stop of the daemon; a stop takes at most ten seconds.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, DatabaseServer};
use crate::context::{self, OpenDatabase, SetupError};
use crate::daemon::http::server;
use crate::daemon::http::status_page::StatusPage;
use crate::daemon::reload::Reloader;
use crate::daemon::systemd::{feed_watchdog, notify};
use crate::daemon::{
    clock_watch, credential_watch, fleet_watch, retirement_watch, signals, summary_refresh,
};
use crate::error::SyncError;
use crate::postgres::Hold;
use crate::store::Store;
use crate::sync::engine::{SyncEngine, panic_error};
use crate::sync::progress::Progress;
use crate::sync::schedule;
use crate::telemetry;

/// The time for active runs to finish their page.
const SOFT_STOP: Duration = Duration::from_secs(6);
/// From the signal until a private Postgres that does not stop is killed. The promise is ten seconds in total.
const HARD_STOP: Duration = Duration::from_secs(9);
const DATABASE_RETRY: Duration = Duration::from_secs(3);
const PASSWORD_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Why the daemon did not start, or ended without a request to stop.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("cannot handle SIGHUP: {0}")]
    Hangup(#[source] io::Error),
    #[error("the schedule did not start: {0}")]
    Schedule(String),
    #[error("http.listen: cannot listen on {address}: {error}. Choose another port")]
    Listen {
        address: SocketAddr,
        #[source]
        error: io::Error,
    },
    #[error("the embedded Postgres exited unexpectedly. See postgres.log in database.embedded_dir")]
    PostgresExited,
    #[error(
        "the dispatcher of tenant runs ended unexpectedly: {0}. incident-sync stops; restart it and report a bug with its log"
    )]
    DispatcherEnded(String),
}

/// Runs until SIGTERM or SIGINT. SIGHUP reloads `file`.
pub async fn run(config: Config, file: Option<PathBuf>, migrate: bool) -> Result<(), DaemonError> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let result = serve(&config, file, migrate, &stop).await;
    signals.abort();
    result
}

/// The engine, with the configured schedule in the database.
async fn start_engine(
    config: &Config,
    store: &Store,
    stop: &CancellationToken,
) -> Result<Arc<SyncEngine>, SyncError> {
    let engine = context::engine(config, store.clone(), Progress::hidden(), stop.clone()).await?;
    engine.settings().apply_schedule(store).await?;
    // systemd passes a changed credential with a restart: tenants parked because of the old one are due.
    engine.retry_parked().await?;
    Ok(engine)
}

async fn serve(
    config: &Config,
    file: Option<PathBuf>,
    migrate: bool,
    stop: &CancellationToken,
) -> Result<(), DaemonError> {
    // Before READY, because SIGHUP kills a process without a handler.
    let hangup = signal(SignalKind::hangup());
    let hangup = hangup.map_err(DaemonError::Hangup)?;
    let metrics = telemetry::start_metrics();
    let Some(database) = await_database(config, migrate, stop).await? else { return Ok(()) };
    if let Some(embedded) = &database.embedded {
        tracing::info!(psql = embedded.psql_line(), "Embedded Postgres started");
    }
    let engine = start_engine(config, &database.store, stop).await.map_err(SetupError::from)?;
    let wake = Arc::new(Notify::new());
    let lines = &config.schedule;
    let lines = [&lines.poll, &lines.open_incidents, &lines.reconcile];
    let ticks = schedule::start_ticks(lines.map(String::as_str), &wake).await;
    let ticks = ticks.map_err(|error| DaemonError::Schedule(error.to_string()))?;
    let page = Arc::new(StatusPage::new(Arc::clone(&engine)));
    let (listen, store) = (config.http.listen, database.store.clone());
    let address = server::start(listen, Arc::clone(&page), store, metrics, stop.clone()).await;
    let address = address.map_err(|error| DaemonError::Listen { address: listen, error })?;
    let tenants = config.tenants.iter().filter(|tenant| tenant.enabled).count();
    notify(|| sd_notify::notify(&[NotifyState::Ready])).await;
    tracing::info!(tenants, listen = %address, version = env!("CARGO_PKG_VERSION"), "Started");
    let passwords = tokio::spawn(watch_password(database.store.clone(), file.clone()));
    let summaries = tokio::spawn({
        let store = database.store.clone();
        async move { summary_refresh::keep_current(&store).await }
    });
    let reloader = Reloader::new(Arc::clone(&engine), file, Arc::clone(&wake), config);
    let reloads = tokio::spawn(reloader.watch(hangup));
    let credentials = tokio::spawn(credential_watch::watch(Arc::clone(&engine), Arc::clone(&wake)));
    let fleet = tokio::spawn(fleet_watch::watch(Arc::clone(&engine), page));
    let retirement = tokio::spawn(retirement_watch::watch(Arc::clone(&engine)));
    let clocks =
        clock_watch::watch(Arc::clone(&engine), Arc::clone(&wake), lines.map(String::clone), ticks);
    let clocks = tokio::spawn(clocks);
    // Before its task runs: the watchdog timeout starts now.
    engine.beat().expect_within(Duration::ZERO);
    let watchdog = tokio::spawn(feed_watchdog(Arc::clone(&engine)));
    let lost = lost_database(&database);
    let mut running = tokio::spawn({
        let engine = Arc::clone(&engine);
        let wake = Arc::clone(&wake);
        async move { engine.run(&wake).await }
    });
    let (is_lost, ended) = tokio::select! {
        ended = &mut running => (false, Some(ended)),
        () = stop.cancelled() => (false, None),
        () = lost => (true, None),
    };
    let was_asked = stop.is_cancelled();
    let deadline = Instant::now() + HARD_STOP;
    stop.cancel();
    notify(|| sd_notify::notify(&[NotifyState::Stopping])).await;
    let ended = match ended {
        Some(ended) => Some(ended),
        None => tokio::time::timeout(SOFT_STOP, running).await.ok(),
    };
    give_back_leases(&database.store, ended.as_ref()).await;
    for task in [reloads, passwords, credentials, fleet, retirement, clocks, summaries, watchdog] {
        task.abort();
    }
    database.close_by(deadline).await;
    if is_lost {
        return Err(DaemonError::PostgresExited);
    }
    judge_end(ended, was_asked)?;
    tracing::info!("Stopped");
    Ok(())
}

type DispatcherEnd = Result<Result<(), SyncError>, JoinError>;

/// A dispatcher that panicked has not released its leases, and its tenants would wait until they expire.
async fn give_back_leases(store: &Store, ended: Option<&DispatcherEnd>) {
    match ended {
        Some(Ok(_)) => {}
        Some(Err(_)) => {
            let released = tokio::time::timeout(SOFT_STOP, store.release_leases()).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::warn!("Cannot release the leases; they expire");
            }
        }
        None => tracing::warn!("Runs did not finish in time; their leases expire"),
    }
}

/// The failure that the dispatcher's end amounts to. `None` is a dispatcher that did not end in time.
fn judge_end(ended: Option<DispatcherEnd>, was_asked: bool) -> Result<(), DaemonError> {
    let error = match ended {
        Some(Ok(Err(error))) => return Err(SetupError::from(error).into()),
        Some(Ok(Ok(()))) if !was_asked => "it returned without a request to stop".to_owned(),
        Some(Ok(Ok(()))) | None => return Ok(()),
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => panic_error(&*panic).to_string(),
            Err(error) => error.to_string(),
        },
    };
    Err(DaemonError::DispatcherEnded(error))
}

/// Retries during an outage of the database; `None` when stopped meanwhile. A wrong user, password or schema is an error:
/// an operator is probably watching, and the next start by systemd reads everything again.
async fn await_database(
    config: &Config,
    migrate: bool,
    stop: &CancellationToken,
) -> Result<Option<OpenDatabase>, SetupError> {
    loop {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            opened = OpenDatabase::open(&config.database, Hold::Daemon, migrate) => opened,
        };
        match opened {
            Err(SetupError::Database { error, .. })
                if error.diagnosis().class.is_database_outage() =>
            {
                notify(|| sd_notify::notify(&[NotifyState::Status("waiting for the database")]))
                    .await;
                tracing::warn!(error = %error, "Waiting for the database");
            }
            other => return other.map(Some),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(DATABASE_RETRY) => {}
        }
    }
}

/// Completes when the private server exits; never for an external server.
async fn lost_database(database: &OpenDatabase) {
    match &database.embedded {
        Some(embedded) => {
            let mut exited = embedded.exited();
            if exited.wait_for(|exited| *exited).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

/// Re-reads the password file when the server rejects the password, because it may have been changed.
async fn watch_password(store: Store, file: Option<PathBuf>) {
    let mut tick = tokio::time::interval(PASSWORD_POLL_INTERVAL);
    loop {
        tick.tick().await;
        if !store.take_refusal() {
            continue;
        }
        match config::load_apart(file.clone()).await {
            Ok(config) => reconnect(&store, &config),
            Err(errors) => {
                tracing::error!(owner = "operator", error = %errors, "Cannot re-read the database password");
            }
        }
    }
}

fn reconnect(store: &Store, config: &Config) {
    if let DatabaseServer::Url(url) = &config.database.server {
        store.reconnect_with(url.connect_options());
    }
}
