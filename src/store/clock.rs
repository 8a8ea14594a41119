//! The database's clock, which all instances share.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{DbRole, Store};
use crate::error::SyncError;
use crate::incident::window::to_delta;

/// The database's clock as it was read once, carried on by the monotonic clock: the wall clock of this machine may be wrong, and
/// may step.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseClock {
    time: DateTime<Utc>,
    read: Instant,
}

impl DatabaseClock {
    /// The clock, which showed `time` just now.
    pub fn showing(time: DateTime<Utc>) -> Self {
        Self { time, read: Instant::now() }
    }

    /// What the clock shows now.
    pub fn now(&self) -> DateTime<Utc> {
        self.time + to_delta(self.read.elapsed())
    }
}

impl Store {
    /// Reads the clock.
    pub async fn clock(&self) -> Result<DatabaseClock, SyncError> {
        let read = async |connection: &mut PgConnection| {
            sqlx::query_scalar("SELECT now()").fetch_one(connection).await
        };
        self.transact("reading the clock", DbRole::Reader, read).await.map(DatabaseClock::showing)
    }
}
