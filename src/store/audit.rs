//! The audit log of deletions, imports and parking.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::tenant::TenantId;

pub type RowCounts = BTreeMap<String, u64>;

/// Adds an entry, which stays after a purge.
pub(super) async fn audit(
    connection: &mut PgConnection,
    tenant: TenantId,
    action: &str,
    actor: &str,
    counts: &RowCounts,
) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("sql/write_audit.sql"))
        .bind(tenant.0)
        .bind(action)
        .bind(actor)
        .bind(Json(json!(counts)))
        .execute(connection)
        .await
        .map(drop)
}
