//! What delays the change feed, and which readers could take all connections.

use sqlx::{FromRow, PgConnection};

use super::{DbRole, Store};
use crate::error::SyncError;

/// A transaction that has a number and has not ended. The change feed shows nothing newer.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct FeedHolder {
    /// Process of its session; none if it is a prepared transaction.
    pub pid: Option<i32>,
    /// Name under which it is prepared.
    pub gid: Option<String>,
    /// The user that began it.
    pub role: Option<String>,
    /// `application_name` of the session.
    pub application: Option<String>,
    /// Its database; transactions in any database of the server delay the feed.
    pub database: Option<String>,
    /// Seconds since it began; none if our user may not see it.
    pub age_seconds: Option<f64>,
    /// Whether it is a session of incident-sync.
    pub is_ours: bool,
}

/// Why the change feed is late.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Feed {
    /// The transactions that delay it, the oldest first.
    pub holders: Vec<FeedHolder>,
    /// Age of the oldest change that is stored and not shown yet; 0 if there is none.
    pub hidden_seconds: f64,
}

impl Feed {
    /// Age of the oldest transaction that delays the feed, or of the oldest change that is not shown yet: our user may not be
    /// allowed to see the age of transactions.
    pub fn delay_seconds(&self) -> f64 {
        let ages = self.holders.iter().filter_map(|holder| holder.age_seconds);
        ages.fold(self.hidden_seconds, f64::max)
    }
}

/// A role that reads, and which limits it lacks.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ReaderLimits {
    pub role: String,
    /// It may take every connection of the server.
    pub has_no_connection_limit: bool,
    /// It may fill the disk with temporary files.
    pub has_no_temp_file_limit: bool,
}

impl Store {
    /// What delays the change feed now.
    pub async fn feed(&self) -> Result<Feed, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let holders = sqlx::query_as(include_str!("sql/feed_holders.sql"))
                .fetch_all(&mut *connection)
                .await?;
            let hidden_seconds = sqlx::query_scalar(include_str!("sql/feed_delay.sql"))
                .fetch_one(connection)
                .await?;
            Ok(Feed { holders, hidden_seconds })
        };
        // As the login user, who may be a member of pg_read_all_stats.
        self.transact("reading the delay of the change feed", DbRole::Login, look).await
    }

    /// The roles that read, by name.
    pub async fn reader_limits(&self) -> Result<Vec<ReaderLimits>, SyncError> {
        let limits = include_str!("sql/reader_limits.sql");
        self.statement("reading the limits of readers", DbRole::Login, limits).fetch_all().await
    }
}
