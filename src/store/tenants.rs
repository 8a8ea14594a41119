//! The configured tenants as rows.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::runs::Due;
use super::{DbRole, Store};
use crate::entra::Tenant;
use crate::error::{ErrorClass, SyncError};
use crate::tenant::INTERNAL_LABEL;

/// Which tenants have left the configuration.
#[derive(Debug, Clone, Copy)]
pub enum RemovedTenants<'a> {
    /// All that are not in it.
    AllOthers,
    /// Of those not in it only these: a rejected file may configure the others.
    Only(&'a [Uuid]),
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

    /// Moves the due times of these tenants forward to those that `due` returns for the database's time; earlier ones stay.
    pub async fn advance_due_times(
        &self,
        tenants: &[Uuid],
        due: impl Fn(DateTime<Utc>) -> Due,
    ) -> Result<(), SyncError> {
        let advance = async |connection: &mut PgConnection| {
            let clock = sqlx::query_scalar(include_str!("sql/clock.sql"));
            let due = due(clock.fetch_one(&mut *connection).await?);
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
