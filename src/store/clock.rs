//! The database's clock, which all instances share.

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{DbRole, Store};
use crate::error::SyncError;
use crate::incident::window::to_delta;

/// The database's clock as it was read once, advanced by the monotonic clock: the wall clock of this machine may be wrong or
/// jump.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseClock {
    time: DateTime<Utc>,
    read: Instant,
}

impl DatabaseClock {
    /// A clock that shows `time` now.
    pub fn showing(time: DateTime<Utc>) -> Self {
        Self { time, read: Instant::now() }
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.time + to_delta(self.read.elapsed())
    }
}

impl Store {
    pub async fn clock(&self) -> Result<DatabaseClock, SyncError> {
        let clock = include_str!("sql/clock.sql");
        let now = self.statement("reading the clock", DbRole::Reader, clock).fetch_scalar().await?;
        Ok(DatabaseClock::showing(now))
    }
}
