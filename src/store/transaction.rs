//! Transactions: each takes on one database role, has a deadline, and leaves nothing behind on its connection.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};

use super::Store;
use super::connections::CONNECT_DEADLINE;
use super::database_error::database_error;
use super::search_path::SEARCH_PATH;
use crate::error::SyncError;
use crate::tenant::TenantId;

/// What a transaction may do. The connection's own user may be a superuser, to whom no policy applies, so each transaction
/// takes on one of the roles of `migrations/0002_isolation.sql`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DbRole {
    /// State of all tenants: names, due times, leases.
    Dispatcher,
    /// The data of one tenant.
    Writer(TenantId),
    /// Reading all tenants.
    Reader,
    /// The same for a person who waits for a page, or a monitor that gives up after ten seconds.
    ReaderInteractive,
    /// The connection's own user: for questions about the schema and for making roles.
    Login,
}

impl DbRole {
    /// A statement that takes longer is cancelled here and on the server: a frozen backend must not block a tenant, and
    /// the dispatcher least of all.
    pub(super) fn deadline(self) -> Duration {
        Duration::from_secs(match self {
            Self::ReaderInteractive => 4,
            Self::Dispatcher => 10,
            Self::Writer(_) => 25,
            Self::Reader | Self::Login => 60,
        })
    }
}

impl Store {
    /// A transaction with the rights of `role`. All its settings end with it, so that a pooler in transaction mode works.
    ///
    /// Read committed, whatever the server's default is: a transaction that waited for a lock must see what the other one
    /// wrote.
    async fn begin(&self, role: DbRole) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.begin_at("READ COMMITTED", role).await
    }

    pub(super) async fn begin_at(
        &self,
        isolation: &str,
        role: DbRole,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let (role_name, tenant) = match role {
            DbRole::Dispatcher => ("incident_sync_dispatcher", String::new()),
            DbRole::Writer(tenant) => ("incident_sync_writer", tenant.to_string()),
            DbRole::Reader | DbRole::ReaderInteractive => ("incident_sync_reader", String::new()),
            DbRole::Login => ("none", String::new()),
        };
        let seconds = role.deadline().as_secs();
        // sqlx names every statement, cached or not, and other clients of the pooler left such names on this server.
        let forget = if self.is_pooled { "; DEALLOCATE ALL" } else { "" };
        // A process that is frozen in a transaction locks its tenant's row until Postgres ends the session.
        self.pool
            .begin_with(AssertSqlSafe(format!(
                "BEGIN ISOLATION LEVEL {isolation}; SET LOCAL search_path = {SEARCH_PATH}; SET LOCAL ROLE {role_name}; \
                 SET LOCAL incident_sync.tenant_id = '{tenant}'; SET LOCAL statement_timeout = '{seconds}s'; SET LOCAL idle_in_transaction_session_timeout = '{seconds}s'{forget}"
            )))
            .await
    }

    /// Does `work` in a transaction with the rights of `role`. `step` names the work in errors. For a single statement use
    /// [`Store::statement`].
    pub(crate) async fn transact<T>(
        &self,
        step: &'static str,
        role: DbRole,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, SyncError> {
        let whole = async {
            let mut transaction = self.begin(role).await?;
            let done = work(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        };
        let deadline = self.patience.min(role.deadline() + CONNECT_DEADLINE);
        within(step, deadline, whole).await.inspect_err(|error| self.health.note(error))
    }

    /// How long a transaction of the dispatcher takes at most, whether the database answers or not.
    pub fn dispatcher_wait(&self) -> Duration {
        self.patience.min(DbRole::Dispatcher.deadline() + CONNECT_DEADLINE)
    }
}

/// Waits for the database until the deadline.
pub(super) async fn within<T>(
    step: &'static str,
    deadline: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SyncError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done.map_err(|error| database_error(step, &error)),
        Err(_) => Err(SyncError::Database {
            step,
            sqlstate: None,
            what: "no answer within the deadline".to_owned(),
            fault: None,
        }),
    }
}
