//! A transaction on all rows of a tenant: it shows one moment, or changes everything or nothing.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, Postgres, Transaction};

use crate::error::SyncError;
use crate::incident::person::PersonIds;
use crate::store::audit::{RowCounts, audit};
use crate::store::lease::{Durability, is_valid};
use crate::store::transaction::within;
use crate::store::{DbRole, Lease, Store};
use crate::tenant::TenantId;

/// Roughly the size of a batch of rows.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
const STEP: &str = "working on all rows of a tenant";

/// A table with rows of tenants, as an export contains it.
#[derive(Debug, FromRow)]
pub struct TenantTable {
    /// Without the schema.
    pub name: String,
    /// The columns that are restored.
    pub columns: Vec<String>,
    pub(super) key: Vec<String>,
    /// The columns of the key that are a hash of the row's content.
    pub(super) hashes: Vec<String>,
    /// The columns with a time.
    pub(super) times: Vec<String>,
}

/// A transaction on all rows of one tenant. Dropping it rolls it back.
#[derive(Debug)]
pub struct TenantRows {
    pub(super) transaction: Transaction<'static, Postgres>,
    pub(super) tenant: TenantId,
    instance: String,
    /// When it began, by the database's clock.
    pub began_at: DateTime<Utc>,
    /// The newest migration of the database.
    pub schema: i64,
    pub tables: Vec<TenantTable>,
    pub(super) cursor: Cursor,
}

/// The position of a reading in the open table.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    pub(super) table: usize,
    /// Length of the longest row of the last batch, in bytes.
    pub(super) longest: usize,
    /// Names the last row that was read, for errors.
    pub(super) place: String,
}

impl Store {
    /// The rows as they are now, unaffected by later changes.
    pub async fn snapshot_rows(&self, tenant: TenantId) -> Result<TenantRows, SyncError> {
        self.tenant_rows("REPEATABLE READ READ ONLY", tenant).await
    }

    /// The rows, to be changed or restored.
    pub async fn locked_rows(&self, tenant: TenantId) -> Result<TenantRows, SyncError> {
        self.tenant_rows("READ COMMITTED", tenant).await
    }

    async fn tenant_rows(
        &self,
        isolation: &str,
        tenant: TenantId,
    ) -> Result<TenantRows, SyncError> {
        let newest_migration = include_str!("../sql/newest_migration.sql");
        let schema = self
            .statement("reading the schema's version", DbRole::Reader, newest_migration)
            .fetch_scalar()
            .await?;
        let begin = async {
            let mut transaction = self.begin_at(isolation, DbRole::Writer(tenant)).await?;
            let began_at = sqlx::query_scalar(include_str!("../sql/clock.sql"))
                .fetch_one(&mut *transaction)
                .await?;
            let tables = sqlx::query_as(include_str!("../sql/tenant_rows.sql"))
                .fetch_all(&mut *transaction)
                .await?;
            Ok(TenantRows {
                transaction,
                tenant,
                instance: self.instance.clone(),
                began_at,
                schema,
                tables,
                cursor: Cursor::default(),
            })
        };
        within(STEP, DbRole::Writer(tenant).deadline(), begin).await
    }

    /// The other ids that the tenant's evidence has for this sign-in name.
    pub async fn person_ids(
        &self,
        tenant: TenantId,
        upn: &str,
    ) -> Result<Vec<PersonIds>, SyncError> {
        let person_ids = include_str!("../sql/person_ids.sql");
        self.statement("looking for a person", DbRole::Writer(tenant), person_ids)
            .bind(tenant.0)
            .bind(upn)
            .fetch_all()
            .await
    }
}

impl TenantRows {
    /// Does `work` in the transaction.
    pub(super) async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, SyncError> {
        let deadline = DbRole::Writer(self.tenant).deadline();
        within(STEP, deadline, work(&mut self.transaction)).await
    }

    /// Commits and releases the tenant. Fails if the lease that was taken is no longer valid: another process may have
    /// written rows that this transaction did not see.
    pub async fn finish(
        mut self,
        action: &str,
        actor: &str,
        counts: &RowCounts,
        taken: Option<Lease>,
    ) -> Result<(), SyncError> {
        let tenant = self.tenant;
        let instance = self.instance.clone();
        let finish = async |connection: &mut PgConnection| {
            if let Some(lease) = taken
                && !is_valid(connection, &lease, &instance, Durability::Immediate).await?
            {
                return Ok(false);
            }
            sqlx::query(include_str!("../sql/release_tenant.sql"))
                .bind(tenant.0)
                .execute(&mut *connection)
                .await?;
            audit(connection, tenant, action, actor, counts).await?;
            Ok(true)
        };
        if !self.within(finish).await? {
            return Err(SyncError::LeaseLost);
        }
        let deadline = DbRole::Writer(tenant).deadline();
        within(STEP, deadline, self.transaction.commit()).await
    }
}
