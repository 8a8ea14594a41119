//! The database's clock, which all instances share.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::{DbRole, Store};
use crate::error::SyncError;
use crate::incident::window::to_delta;
use crate::tenant::TenantId;

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

    /// Corrects what was stored for a tenant while the database's clock was ahead; returns whether there was anything.
    pub(super) async fn follow_clock(&self, tenant: TenantId) -> Result<bool, SyncError> {
        let follow =
            async |connection: &mut PgConnection| follow_clock(connection, &[tenant.0]).await;
        self.transact("following the database's clock", DbRole::Dispatcher, follow).await
    }
}

/// Corrects what was stored for these tenants while the database's clock was ahead; returns whether there was anything.
pub(super) async fn follow_clock(
    connection: &mut PgConnection,
    tenants: &[Uuid],
) -> Result<bool, sqlx::Error> {
    let follow = sqlx::query(include_str!("sql/follow_clock.sql")).bind(tenants);
    Ok(follow.execute(connection).await?.rows_affected() > 0)
}
