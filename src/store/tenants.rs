//! The configured tenants as rows.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Rights, Store};
use crate::error::SyncError;
use crate::tenant::Tenant;

impl Store {
    /// Makes `tenants` and `sync_state` agree with the configuration. Data of a tenant that left it stays. Who is missing has
    /// left only if these are `all` that there are.
    pub async fn sync_tenants(&self, tenants: &[std::sync::Arc<Tenant>], all: bool) -> Result<(), SyncError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.id.0).collect();
        let names: Vec<&str> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        let labels: Vec<String> = tenants.iter().map(|tenant| serde_json::json!(tenant.labels).to_string()).collect();
        let enabled: Vec<bool> = tenants.iter().map(|tenant| tenant.enabled).collect();
        let write = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/sync_tenants.sql"))
                .bind(&ids)
                .bind(names)
                .bind(labels)
                .bind(enabled)
                .execute(&mut *connection)
                .await?;
            // A restored database shows its old changes at once, and not only when there is a new one.
            sqlx::query("SELECT defender.continue_feed()").execute(&mut *connection).await?;
            if all {
                sqlx::query(include_str!("sql/mark_removed_tenants.sql")).bind(&ids).execute(&mut *connection).await?;
            }
            sqlx::query(include_str!("sql/create_sync_states.sql")).bind(&ids).execute(connection).await
        };
        self.transact("writing the configured tenants", Rights::Dispatcher, write).await.map(drop)
    }

    /// Lets parked tenants try at once, because the configuration was read again.
    pub async fn unpark(&self, tenants: &[Uuid]) -> Result<(), SyncError> {
        let unpark = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/unpark_tenants.sql")).bind(tenants).execute(connection).await
        };
        self.transact("letting parked tenants try again", Rights::Dispatcher, unpark).await.map(drop)
    }
}
