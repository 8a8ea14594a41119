//! The rows of a page, one statement a table.
//!
//! Arrays and `unnest` carry the rows: `COPY` is refused on tables with row-level security, and measured slower.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::Lease;
use super::records::{AlertRecord, EvidenceRecord, JsonText, bind_columns};
use crate::incident::rows::{AlertRow, EvidenceRow, PageRows};

/// Writes all rows of a page and returns how many alerts were written.
pub(super) async fn write_rows(
    connection: &mut PgConnection,
    lease: &Lease,
    rows: &PageRows<'_>,
) -> Result<usize, sqlx::Error> {
    let tenant = lease.tenant.0;
    let mut written = 0;
    if !rows.incidents.is_empty() {
        let ids = column(&rows.incidents, |row| row.incident_id);
        write_incidents(connection, lease, rows).await?;
        sqlx::query(include_str!("sql/delete_decoded.sql"))
            .bind(tenant)
            .bind(&ids)
            .execute(&mut *connection)
            .await?;
        write_comments(connection, lease, rows, &ids).await?;
    }
    if !rows.alerts.is_empty() {
        let mut alerts = write_alerts(connection, lease, rows).await?;
        written = alerts.inserted.len() + alerts.updated.len();
        alerts.updated.extend(unchanged_alerts(connection, lease, rows, &alerts).await?);
        // Devices and evidence of a new alert are inserted without looking for stored ones, which is twice as fast. This fails
        // if only the alert was deleted by hand; the page is then stored one incident at a time, as updates.
        if rows.incidents.len() <= 1 {
            alerts.updated.extend(alerts.inserted.drain());
        }
        write_alert_devices(connection, lease, rows, &alerts).await?;
        write_devices(connection, lease, rows).await?;
        write_evidence(connection, lease, rows, &alerts).await?;
    }
    if !rows.rejected.is_empty() {
        sqlx::query(include_str!("sql/insert_rejected.sql"))
            .bind(tenant)
            .bind(column(&rows.rejected, |row| row.incident_id))
            .bind(column(&rows.rejected, |row| row.reason.as_str()))
            .bind(column(&rows.rejected, |row| row.payload))
            .bind(column(&rows.rejected, |row| row.content_hash))
            .bind(rows.source.as_str())
            .execute(connection)
            .await?;
    }
    Ok(written)
}

fn column<'r, R, T>(rows: &'r [R], pick: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(pick).collect()
}

async fn write_incidents(
    connection: &mut PgConnection,
    lease: &Lease,
    page: &PageRows<'_>,
) -> Result<(), sqlx::Error> {
    let rows = page.incidents.as_slice();
    sqlx::query(include_str!("sql/unlist_alerts.sql"))
        .bind(lease.tenant.0)
        .bind(column(rows, |row| row.incident_id))
        .bind(column(rows, |row| row.last_update_time))
        .bind(column(&page.alerts, |row| row.alert_id.as_ref()))
        .bind(column(&page.alerts, |row| row.incident_id))
        .execute(&mut *connection)
        .await?;
    let query = sqlx::query(include_str!("sql/upsert_incidents.sql"))
        .bind(lease.tenant.0)
        .bind(column(rows, |row| row.incident_id))
        .bind(column(rows, |row| row.last_update_time));
    bind_columns(query, rows.iter().map(|row| &row.columns))
        .bind(column(rows, |row| row.extra.as_deref()))
        .bind(page.source.as_str())
        .execute(&mut *connection)
        .await?;
    sqlx::query(include_str!("sql/upsert_payloads.sql"))
        .bind(lease.tenant.0)
        .bind(column(rows, |row| row.incident_id))
        .bind(column(rows, |row| row.content_hash))
        .bind(column(rows, |row| JsonText(row.payload)))
        .bind(page.source.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// The alerts of a page whose devices and evidence are written. An alert whose newer state is stored is in neither set.
struct AlertsWritten {
    inserted: HashSet<String>,
    updated: HashSet<String>,
}

/// The alerts of the page that were not written because their rows are the same. Their devices or evidence may differ.
async fn unchanged_alerts(
    connection: &mut PgConnection,
    lease: &Lease,
    page: &PageRows<'_>,
    written: &AlertsWritten,
) -> Result<HashSet<String>, sqlx::Error> {
    let is_written = |row: &AlertRow<'_>| {
        let id = row.alert_id.as_ref();
        written.inserted.contains(id) || written.updated.contains(id)
    };
    let rest: Vec<_> = page.alerts.iter().filter(|row| !is_written(row)).collect();
    if rest.is_empty() {
        return Ok(HashSet::new());
    }
    let unchanged: Vec<String> = sqlx::query_scalar(include_str!("sql/unchanged_alerts.sql"))
        .bind(lease.tenant.0)
        .bind(column(&rest, |row| row.alert_id.as_ref()))
        .bind(column(&rest, |row| row.columns.last_updated_time))
        .bind(column(&rest, |row| row.last_seen))
        .fetch_all(connection)
        .await?;
    Ok(unchanged.into_iter().collect())
}

async fn write_alerts(
    connection: &mut PgConnection,
    lease: &Lease,
    rows: &PageRows<'_>,
) -> Result<AlertsWritten, sqlx::Error> {
    let accepted = sqlx::query_as::<_, (String, bool)>(include_str!("sql/upsert_alerts.sql"))
        .bind(lease.tenant.0)
        .bind(column(&rows.alerts, AlertRecord))
        .bind(rows.source.as_str())
        .fetch_all(connection)
        .await?;
    let (inserted, updated): (Vec<_>, Vec<_>) =
        accepted.into_iter().partition(|(_, is_new)| *is_new);
    let ids = |alerts: Vec<(String, bool)>| alerts.into_iter().map(|(id, _)| id).collect();
    Ok(AlertsWritten { inserted: ids(inserted), updated: ids(updated) })
}

async fn write_alert_devices(
    connection: &mut PgConnection,
    lease: &Lease,
    rows: &PageRows<'_>,
    alerts: &AlertsWritten,
) -> Result<(), sqlx::Error> {
    let of_alerts = |chosen: &HashSet<String>| -> (Vec<&str>, Vec<&str>) {
        let rows =
            rows.alert_devices.iter().filter(|(alert_id, _)| chosen.contains(alert_id.as_ref()));
        rows.map(|(alert_id, device_id)| (alert_id.as_ref(), device_id.as_ref())).unzip()
    };
    let (alert_ids, device_ids) = of_alerts(&alerts.inserted);
    if !alert_ids.is_empty() {
        let insert = sqlx::query(include_str!("sql/insert_alert_devices.sql"));
        insert
            .bind(lease.tenant.0)
            .bind(alert_ids)
            .bind(device_ids)
            .execute(&mut *connection)
            .await?;
    }
    if alerts.updated.is_empty() {
        return Ok(());
    }
    let (alert_ids, device_ids) = of_alerts(&alerts.updated);
    sqlx::query(include_str!("sql/delete_stale_alert_devices.sql"))
        .bind(lease.tenant.0)
        .bind(sorted(&alerts.updated))
        .bind(&alert_ids)
        .bind(&device_ids)
        .execute(&mut *connection)
        .await?;
    let upsert = sqlx::query(include_str!("sql/upsert_alert_devices.sql"));
    upsert.bind(lease.tenant.0).bind(alert_ids).bind(device_ids).execute(connection).await?;
    Ok(())
}

fn sorted(ids: &HashSet<String>) -> Vec<&str> {
    let mut ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    ids.sort_unstable();
    ids
}

async fn write_devices(
    connection: &mut PgConnection,
    lease: &Lease,
    page: &PageRows<'_>,
) -> Result<(), sqlx::Error> {
    let rows = page.devices.as_slice();
    let query = sqlx::query(include_str!("sql/upsert_devices.sql"))
        .bind(lease.tenant.0)
        .bind(column(rows, |row| row.device_id.as_ref()))
        .bind(column(rows, |row| row.last_seen));
    bind_columns(query, rows.iter().map(|row| &row.columns))
        .bind(page.source.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_evidence(
    connection: &mut PgConnection,
    lease: &Lease,
    rows: &PageRows<'_>,
    alerts: &AlertsWritten,
) -> Result<(), sqlx::Error> {
    let of_alerts = |chosen: &HashSet<String>| -> Vec<&EvidenceRow<'_>> {
        rows.evidence.iter().filter(|row| chosen.contains(row.alert_id.as_ref())).collect()
    };
    let new = of_alerts(&alerts.inserted);
    if !new.is_empty() {
        let insert = sqlx::query(include_str!("sql/insert_evidence.sql"));
        insert
            .bind(lease.tenant.0)
            .bind(column(&new, |row| EvidenceRecord(row)))
            .execute(&mut *connection)
            .await?;
    }
    if alerts.updated.is_empty() {
        return Ok(());
    }
    let listed = of_alerts(&alerts.updated);
    sqlx::query(include_str!("sql/delete_stale_evidence.sql"))
        .bind(lease.tenant.0)
        .bind(sorted(&alerts.updated))
        .bind(column(&listed, |row| row.alert_id.as_ref()))
        .bind(column(&listed, |row| row.evidence_hash))
        .execute(&mut *connection)
        .await?;
    let upsert = sqlx::query(include_str!("sql/upsert_evidence.sql"));
    upsert
        .bind(lease.tenant.0)
        .bind(column(&listed, |row| EvidenceRecord(row)))
        .bind(rows.source.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_comments(
    connection: &mut PgConnection,
    lease: &Lease,
    rows: &PageRows<'_>,
    ids: &[i64],
) -> Result<(), sqlx::Error> {
    let comments = rows.comments.as_slice();
    let incident_ids = column(comments, |row| row.incident_id);
    let hashes = column(comments, |row| row.comment_hash);
    sqlx::query(include_str!("sql/delete_stale_comments.sql"))
        .bind(lease.tenant.0)
        .bind(ids)
        .bind(&incident_ids)
        .bind(&hashes)
        .execute(&mut *connection)
        .await?;
    if comments.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(include_str!("sql/upsert_comments.sql"))
        .bind(lease.tenant.0)
        .bind(incident_ids)
        .bind(hashes);
    bind_columns(query, comments.iter().map(|row| &row.columns)).execute(connection).await?;
    Ok(())
}
