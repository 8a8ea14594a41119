//! The configured tenants as rows.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::runs::Due;
use super::{DbRole, Store};
use crate::entra::Tenant;
use crate::error::SyncError;
use crate::tenant::INTERNAL_LABEL;

/// Which tenants have left the configuration.
#[derive(Debug, Clone, Copy)]
pub enum RemovedTenants<'a> {
    /// Whoever is not in it.
    AllOthers,
    /// Of those not in it only these: what is in a file that was refused nobody knows.
    Only(&'a [Uuid]),
}

/// The labels that every reader of the tenant sees and those for operators, as JSON objects.
fn labels_by_reader(tenant: &Tenant) -> (String, String) {
    let (mut shown, mut internal) = (BTreeMap::new(), BTreeMap::new());
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
            // A restored database shows its old changes at once, and not only when there is a new one.
            sqlx::query("SELECT defender.continue_feed()").execute(&mut *connection).await?;
            let mark = sqlx::query(include_str!("sql/mark_removed_tenants.sql")).bind(&ids);
            mark.bind(left).execute(&mut *connection).await?;
            sqlx::query(include_str!("sql/create_sync_states.sql"))
                .bind(&ids)
                .execute(connection)
                .await
        };
        self.transact("writing the configured tenants", DbRole::Dispatcher, write).await.map(drop)
    }

    /// Lets each kind of run of these tenants be due no later than `due` says of the database's time.
    pub async fn advance_due_times(
        &self,
        tenants: &[Uuid],
        due: impl Fn(DateTime<Utc>) -> Due,
    ) -> Result<(), SyncError> {
        let bring = async |connection: &mut PgConnection| {
            let due = due(sqlx::query_scalar("SELECT now()").fetch_one(&mut *connection).await?);
            let bring = sqlx::query(include_str!("sql/bring_forward.sql")).bind(tenants);
            bring.bind(due.poll).bind(due.open).bind(due.reconcile).execute(connection).await
        };
        self.transact("bringing runs forward", DbRole::Dispatcher, bring).await.map(drop)
    }

    /// Makes parked tenants due, because the cause may be fixed.
    pub async fn clear_parking(&self, tenants: &[Uuid]) -> Result<(), SyncError> {
        let clear_parking = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/unpark_tenants.sql"))
                .bind(tenants)
                .execute(connection)
                .await
        };
        self.transact("letting parked tenants try again", DbRole::Dispatcher, clear_parking)
            .await
            .map(drop)
    }
}
