//! The connection pool, and which of its connections can be used after a failover or a change of the password.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use crate::error::SyncError;

pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// For the empty statement that tests a connection before it is used again.
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// SQLSTATE of a write on a standby.
const READ_ONLY: &str = "25006";
/// Class of the SQLSTATEs for a wrong user or password.
const AUTHORIZATION: &str = "28";
/// How a URL states that prepared statements do not outlive their transaction, because of a pooler in transaction mode.
const NO_STATEMENT_CACHE: (Cow<'_, str>, Cow<'_, str>) =
    (Cow::Borrowed("statement-cache-capacity"), Cow::Borrowed("0"));

/// What errors showed about the connections of the pool, which do not notice it themselves.
#[derive(Debug, Default)]
pub(super) struct ConnectionHealth {
    /// Connections opened before this lead to a server that is a standby now, or hold statements of an earlier schema.
    usable_since: Mutex<Option<Instant>>,
    /// The password was refused: it may have been changed.
    is_refused: AtomicBool,
}

impl ConnectionHealth {
    pub(super) fn note(&self, error: &SyncError) {
        let is_stale = matches!(error, SyncError::StalePlan { .. });
        match error.sqlstate() {
            Some(READ_ONLY) => self.renew(),
            _ if is_stale => self.renew(),
            Some(code) if code.starts_with(AUTHORIZATION) => {
                self.is_refused.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn renew(&self) {
        *self.usable_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_usable(&self, age: Duration) -> bool {
        let usable_since = self.usable_since.lock().unwrap_or_else(PoisonError::into_inner);
        usable_since.is_none_or(|since| age < since.elapsed())
    }

    /// Whether user or password were refused since the last call.
    pub(super) fn take_refusal(&self) -> bool {
        self.is_refused.swap(false, Ordering::Relaxed)
    }
}

/// A pool that connects when it is first used.
pub(super) fn pool(
    options: PgConnectOptions,
    max_connections: u32,
    health: &Arc<ConnectionHealth>,
) -> PgPool {
    let health = Arc::clone(health);
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(CONNECT_DEADLINE)
        // The pool's own test of an idle connection has no deadline of its own and would use up the time for acquiring.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let is_usable = health.is_usable(meta.age);
            Box::pin(async move { Ok(is_usable && answers(connection).await) })
        })
        // The pool tests a released connection without a deadline: one with a frozen server would keep its place forever.
        // And its buffer keeps the size of the largest page that it sent.
        .after_release(|connection, _| {
            connection.shrink_buffers();
            Box::pin(async move {
                let answered = tokio::time::timeout(CONNECT_DEADLINE, connection.ping()).await;
                answered.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
            })
        })
        .connect_lazy_with(options)
}

/// Whether the server still answers on this connection.
async fn answers(connection: &mut PgConnection) -> bool {
    tokio::time::timeout(PING_DEADLINE, connection.ping()).await.is_ok_and(|answer| answer.is_ok())
}

/// The options with our application name, and without statements in the log.
pub(super) fn ours(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().application_name("incident-sync").disable_statement_logging()
}

/// Whether a pooler in transaction mode is between us and the server.
pub(super) fn is_pooled(options: &PgConnectOptions) -> bool {
    options.to_url_lossy().query_pairs().any(|pair| pair == NO_STATEMENT_CACHE)
}
