//! The configured tenants as rows.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::audit::{RowCounts, audit};
use super::clock::follow_clock;
use super::runs::Due;
use super::{DbRole, Store};
use crate::entra::Tenant;
use crate::error::{ErrorClass, SyncError};
use crate::tenant::{INTERNAL_LABEL, TenantId};

/// Which tenants have left the configuration.
#[derive(Debug, Clone, Copy)]
pub enum RemovedTenants<'a> {
    /// All that are not in it.
    AllOthers,
    /// Of those not in it only these: a rejected file may configure the others.
    Only(&'a [Uuid]),
}

/// A tenant that is or was configured.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StoredTenant {
    pub tenant_id: Uuid,
    pub name: String,
    pub is_removed: bool,
    /// Whether it is no longer configured, while its removal is not confirmed.
    pub is_missing: bool,
}

/// The labels for every reader of the tenant and those for operators, as JSON objects.
fn labels_by_reader(tenant: &Tenant) -> (String, String) {
    let mut shown = BTreeMap::new();
    let mut internal = BTreeMap::new();
    for (key, value) in &tenant.labels {
        match key.strip_prefix(INTERNAL_LABEL) {
            Some(key) => internal.insert(key, value),
            None => shown.insert(key.as_str(), value),
        };
    }
    (serde_json::json!(shown).to_string(), serde_json::json!(internal).to_string())
}

impl Store {
    /// Makes `tenants` and `sync_state` agree with the configuration. Data of a tenant that left it stays.
    pub async fn sync_tenants(
        &self,
        tenants: &[std::sync::Arc<Tenant>],
        left: RemovedTenants<'_>,
    ) -> Result<(), SyncError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.id.0).collect();
        let names: Vec<&str> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        let (labels, internal_labels): (Vec<String>, Vec<String>) =
            tenants.iter().map(|tenant| labels_by_reader(tenant)).unzip();
        let enabled: Vec<bool> = tenants.iter().map(|tenant| tenant.enabled).collect();
        let left = match left {
            RemovedTenants::AllOthers => None,
            RemovedTenants::Only(these) => Some(these),
        };
        let write = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/sync_tenants.sql"))
                .bind(&ids)
                .bind(names)
                .bind(labels)
                .bind(enabled)
                .bind(internal_labels)
                .execute(&mut *connection)
                .await?;
            // A restored database then shows its old changes before there is a new one.
            sqlx::query(include_str!("sql/continue_feed.sql")).execute(&mut *connection).await?;
            sqlx::query(include_str!("sql/mark_removed_tenants.sql"))
                .bind(&ids)
                .bind(left)
                .execute(&mut *connection)
                .await?;
            sqlx::query(include_str!("sql/create_sync_states.sql"))
                .bind(&ids)
                .execute(connection)
                .await
        };
        self.transact("writing the configured tenants", DbRole::Dispatcher, write).await.map(drop)
    }

    /// All tenants, by name.
    pub async fn known_tenants(&self) -> Result<Vec<StoredTenant>, SyncError> {
        let known_tenants = include_str!("sql/known_tenants.sql");
        self.statement("reading the known tenants", DbRole::Dispatcher, known_tenants)
            .fetch_all()
            .await
    }

    /// Marks tenants whose removal is held back.
    pub async fn mark_missing(&self, tenants: &[Uuid]) -> Result<(), SyncError> {
        let mark_missing = include_str!("sql/mark_missing_tenants.sql");
        self.statement("marking missing tenants", DbRole::Dispatcher, mark_missing)
            .bind(tenants)
            .execute()
            .await
    }

    /// Removes tenants whose removal was held back, and names in the audit log who confirmed it.
    pub async fn remove_missing(&self, tenants: &[Uuid], actor: &str) -> Result<(), SyncError> {
        let remove = include_str!("sql/mark_removed_tenants.sql");
        let none: &[Uuid] = &[];
        self.statement("removing tenants", DbRole::Dispatcher, remove)
            .bind(none)
            .bind(Some(tenants))
            .execute()
            .await?;
        for tenant in tenants.iter().copied().map(TenantId) {
            let write = async |connection: &mut PgConnection| {
                audit(connection, tenant, "removal confirmed", actor, &RowCounts::new()).await
            };
            self.transact("auditing a removal", DbRole::Writer(tenant), write).await?;
        }
        Ok(())
    }

    /// Moves the due times of these tenants forward to those that `due` returns for the database's time; earlier ones stay.
    /// Corrects what was stored while the database's clock was ahead.
    pub async fn advance_due_times(
        &self,
        tenants: &[Uuid],
        due: impl Fn(DateTime<Utc>) -> Due,
    ) -> Result<(), SyncError> {
        let advance = async |connection: &mut PgConnection| {
            let clock = sqlx::query_scalar(include_str!("sql/clock.sql"));
            let due = due(clock.fetch_one(&mut *connection).await?);
            follow_clock(connection, tenants).await?;
            sqlx::query(include_str!("sql/advance_due_times.sql"))
                .bind(tenants)
                .bind(due.poll)
                .bind(due.open)
                .bind(due.reconcile)
                .execute(connection)
                .await
        };
        self.transact("advancing due times", DbRole::Dispatcher, advance).await.map(drop)
    }

    /// The tenants whose last run failed with an error of this class.
    pub async fn tenants_with_error(&self, class: ErrorClass) -> Result<Vec<Uuid>, SyncError> {
        let tenants_with_error = include_str!("sql/tenants_with_error.sql");
        let tenants: Vec<(Uuid,)> = self
            .statement("looking for failed tenants", DbRole::Dispatcher, tenants_with_error)
            .bind(class.as_str())
            .fetch_all()
            .await?;
        Ok(tenants.into_iter().map(|(tenant,)| tenant).collect())
    }

    /// Makes parked tenants due, because the cause may be fixed.
    pub async fn clear_parking(&self, tenants: &[Uuid]) -> Result<(), SyncError> {
        let clear_parking = include_str!("sql/clear_parking.sql");
        self.statement("clearing the parking of tenants", DbRole::Dispatcher, clear_parking)
            .bind(tenants)
            .execute()
            .await
    }
}
