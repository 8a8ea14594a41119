//! The daemon's life: start-up, work, and an end within ten seconds.

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

use crate::commands::exit::Failure;
use crate::commands::progress::Progress;
use crate::config::{self, Config, DatabaseServer};
use crate::context::{self, OpenDatabase, SetupError};
use crate::daemon::http::server;
use crate::daemon::reload::Reloader;
use crate::daemon::systemd::{feed_watchdog, notify, status_line};
use crate::daemon::{signals, summary_refresh};
use crate::entra::expiry;
use crate::error::SyncError;
use crate::postgres::Hold;
use crate::store::Store;
use crate::sync::engine::panic_error;
use crate::sync::schedule;
use crate::telemetry;

/// Runs in flight have this long to finish their page.
const SOFT_STOP: Duration = Duration::from_secs(6);
/// From the signal until even a frozen Postgres is killed: the promise is ten seconds in all.
const HARD_STOP: Duration = Duration::from_secs(9);
const DATABASE_RETRY: Duration = Duration::from_secs(3);
const PASSWORD_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. `file` is read again on SIGHUP.
pub async fn run(config: Config, file: Option<PathBuf>, migrate: bool) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let result = serve(&config, file, migrate, &stop).await;
    signals.abort();
    result
}

async fn serve(
    config: &Config,
    file: Option<PathBuf>,
    migrate: bool,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    // Before READY: until it is caught, SIGHUP kills.
    let hangup = signal(SignalKind::hangup());
    let hangup = hangup
        .map_err(|error| Failure::Configuration(format!("SIGHUP cannot be watched: {error}")))?;
    let metrics = telemetry::start_metrics();
    let Some(database) = await_database(config, migrate, stop).await? else { return Ok(()) };
    if let Some(embedded) = &database.embedded {
        tracing::info!(psql = embedded.psql_line(), "the embedded Postgres runs");
    }
    let engine = context::engine(config, database.store.clone(), Progress::hidden(), stop.clone())
        .await
        .map_err(SetupError::from)?;
    engine.settings().apply_schedule(&database.store).await.map_err(SetupError::from)?;
    let wake = Arc::new(Notify::new());
    let lines = &config.schedule;
    let ticks =
        schedule::start_ticks([&lines.poll, &lines.open_incidents, &lines.reconcile], &wake).await;
    let mut ticks = ticks
        .map_err(|error| Failure::Configuration(format!("the schedule did not start: {error}")))?;
    let address = server::start(config.http.listen, &engine, metrics, stop.clone()).await;
    let address = address.map_err(|error| cannot_listen(config.http.listen, &error))?;
    let tenants = config.tenants.iter().filter(|tenant| tenant.enabled).count();
    let status = status_line(&config.tenants);
    notify(move || sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)])).await;
    tracing::info!(tenants, listen = %address, version = env!("CARGO_PKG_VERSION"), "started");
    let passwords = tokio::spawn(watch_password(database.store.clone(), file.clone()));
    let summaries = tokio::spawn({
        let store = database.store.clone();
        async move { summary_refresh::keep_current(&store).await }
    });
    #[cfg(feature = "otlp")]
    tokio::spawn(crate::telemetry::otlp::watch_tenants(database.store.clone()));
    let reloader = Reloader::new(Arc::clone(&engine), file, Arc::clone(&wake), config);
    let reloads = tokio::spawn(reloader.watch(hangup));
    let credentials = tokio::spawn(expiry::watch(Arc::clone(&engine), Arc::clone(&wake)));
    // Before its task runs: the watchdog asks from now on.
    engine.beat().expect_within(Duration::ZERO);
    let watchdog = tokio::spawn(feed_watchdog(Arc::clone(&engine)));
    let lost = lost_database(&database);
    let mut running = tokio::spawn({
        let (engine, wake) = (Arc::clone(&engine), Arc::clone(&wake));
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
    for task in [reloads, passwords, credentials, summaries, watchdog] {
        task.abort();
    }
    drop(ticks.shutdown().await);
    database.close_by(deadline).await;
    if is_lost {
        return Err(Failure::Database(
            "the embedded Postgres ended by itself; its log is postgres.log in database.embedded_dir".to_owned(),
        ));
    }
    judge_end(ended, was_asked)?;
    tracing::info!("stopped");
    Ok(())
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    Failure::Configuration(format!("http.listen: {address}: {error}; choose another port"))
}

/// How the dispatcher ended.
type DispatcherEnd = Result<Result<(), SyncError>, JoinError>;

/// A dispatcher that panicked has not given its leases back: its tenants would wait for them to expire.
async fn give_back_leases(store: &Store, ended: Option<&DispatcherEnd>) {
    match ended {
        Some(Ok(_)) => {}
        Some(Err(_)) => {
            let released = tokio::time::timeout(SOFT_STOP, store.release_leases()).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::warn!("leases were not given back; they expire by themselves");
            }
        }
        None => tracing::warn!("runs did not finish in time; their leases expire by themselves"),
    }
}

/// The failure that the dispatcher's end amounts to. `None` is a dispatcher that did not end in time.
fn judge_end(ended: Option<DispatcherEnd>, was_asked: bool) -> Result<(), Failure> {
    let error = match ended {
        Some(Ok(Err(error))) => return Err(SetupError::from(error).into()),
        Some(Ok(Ok(()))) if !was_asked => "it returned although nothing asked it to".to_owned(),
        Some(Ok(Ok(()))) | None => return Ok(()),
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => panic_error(&*panic).to_string(),
            Err(error) => error.to_string(),
        },
    };
    Err(Failure::NotDone(format!(
        "the dispatcher of tenant runs ended: {error}. incident-sync ends with it. Start it again, and report the log"
    )))
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
                tracing::warn!(error = %error, "waiting for the database");
            }
            other => return other.map(Some),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(DATABASE_RETRY) => {}
        }
    }
}

/// Ends when the private server does; never, where the server is somebody else's.
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

/// A password may be changed while we run: when the server refuses ours, its file is read again.
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
                tracing::error!(owner = "operator", error = %errors, "the password cannot be read again");
            }
        }
    }
}

fn reconnect(store: &Store, config: &Config) {
    if let DatabaseServer::Url(url) = &config.database.server {
        store.reconnect_with(url.connect_options());
    }
}
