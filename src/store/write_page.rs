//! Writes the rows of a page: one transaction, one statement a table, all or nothing.
//!
//! Arrays and `unnest` carry the rows: `COPY` is refused on tables with row-level security, and measured slower.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::lease::Durability;
use super::records::{AlertRecord, EvidenceRecord, JsonText, bind_columns};
use super::{DbRole, Lease, Store};
use crate::error::SyncError;
use crate::failpoint;
use crate::incident::decode::key;
use crate::incident::hash::Hash;
use crate::incident::raw::RawIncident;
use crate::incident::rows::{AlertRow, DeviceRow, EvidenceRow, IncidentRow, PageRows};
use crate::tenant::TenantId;

/// Where a page stands in its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagePosition {
    /// More pages follow.
    MidWindow,
    /// With this page the window is drained, and the watermark may move here.
    WindowEnd(Option<DateTime<Utc>>),
}

/// What a page changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WriteCounts {
    /// Incident versions.
    pub incidents: usize,
    /// Alert rows.
    pub alerts: usize,
    /// Elements that went into quarantine.
    pub rejected: usize,
    /// Shows later whether the page is still there.
    pub last_write: Option<LastWrite>,
}

/// The last incident version that a run has written. While it is there, so is all that the run wrote before: a crash or a
/// failover takes back the newest commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWrite {
    incident_id: i64,
    content_hash: Hash,
}

/// The stored versions of some incidents.
#[derive(Debug)]
pub struct KnownVersions(HashMap<i64, (DateTime<Utc>, Vec<u8>)>);

impl KnownVersions {
    /// Leaves the elements that are newer than what is stored, or equally new with other content: an alert may change
    /// without its incident.
    pub fn without_known<'a>(&self, mut elements: Vec<RawIncident<'a>>) -> Vec<RawIncident<'a>> {
        elements.retain(|element| {
            let stored = element.head.incident_id.and_then(|id| self.0.get(&id));
            stored.is_none_or(|(time, hash)| match element.head.last_update_time {
                Some(served) => served > *time || served == *time && hash != &element.hash,
                None => hash != &element.hash,
            })
        });
        elements
    }

    /// The stored version of an incident.
    pub fn version(&self, incident_id: i64) -> Option<DateTime<Utc>> {
        self.0.get(&incident_id).map(|(time, _)| *time)
    }

    /// Whether the element is an incident version later than the stored one.
    pub fn is_news(&self, element: &RawIncident<'_>) -> bool {
        let stored = element.head.incident_id.and_then(|id| self.version(id));
        stored.is_none_or(|stored| {
            element.head.last_update_time.is_some_and(|served| stored < served)
        })
    }
}

impl Store {
    /// Which versions of the incidents of a page are stored.
    pub async fn known_versions(
        &self,
        tenant: TenantId,
        elements: &[RawIncident<'_>],
    ) -> Result<KnownVersions, SyncError> {
        let ids: Vec<i64> =
            elements.iter().filter_map(|element| element.head.incident_id).collect();
        if ids.is_empty() {
            return Ok(KnownVersions(HashMap::new()));
        }
        let look = async |connection: &mut PgConnection| {
            let query = sqlx::query_as::<_, (i64, DateTime<Utc>, Vec<u8>)>(include_str!(
                "sql/known_versions.sql"
            ));
            query.bind(tenant.0).bind(ids).fetch_all(connection).await
        };
        let known =
            self.transact("looking up stored versions", DbRole::Writer(tenant), look).await?;
        Ok(KnownVersions(known.into_iter().map(|(id, time, hash)| (id, (time, hash))).collect()))
    }

    /// At most `limit` elements of the quarantine after the given one, each with its id there.
    pub async fn rejected(
        &self,
        lease: &Lease,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(i64, RawIncident<'static>)>, SyncError> {
        let read = async |connection: &mut PgConnection| {
            let query = sqlx::query_as::<_, (i64, String, Vec<u8>)>(include_str!(
                "sql/rejected_payloads.sql"
            ));
            query.bind(lease.tenant.0).bind(after).bind(limit).fetch_all(connection).await
        };
        let rows =
            self.transact("reading the quarantine", DbRole::Writer(lease.tenant), read).await?;
        let element = |(id, text, hash): (i64, String, Vec<u8>)| {
            Some((
                id,
                RawIncident {
                    head: key::head(&text),
                    hash: hash.try_into().ok()?,
                    text: Cow::Owned(text),
                },
            ))
        };
        Ok(rows.into_iter().filter_map(element).collect())
    }

    /// Takes out of the quarantine what is stored in this version or a later one.
    pub async fn forget_obsolete(&self, lease: &Lease, hashes: &[Hash]) -> Result<(), SyncError> {
        let delete = async |connection: &mut PgConnection| {
            let delete = sqlx::query(include_str!("sql/delete_obsolete.sql"));
            delete.bind(lease.tenant.0).bind(hashes).execute(connection).await
        };
        self.transact_leased("tidying the quarantine", lease, Durability::Immediate, delete)
            .await
            .map(drop)
    }

    /// Leaves out of `rows` what is in quarantine already.
    pub async fn forget_known_rejects(
        &self,
        lease: &Lease,
        rows: &mut PageRows<'_>,
    ) -> Result<(), SyncError> {
        if rows.rejected.is_empty() {
            return Ok(());
        }
        let hashes: Vec<Hash> = rows.rejected.iter().map(|row| row.content_hash).collect();
        let look = async |connection: &mut PgConnection| {
            let query = sqlx::query_scalar::<_, Vec<u8>>(include_str!("sql/known_rejected.sql"));
            query.bind(lease.tenant.0).bind(hashes).fetch_all(connection).await
        };
        let known =
            self.transact("looking up the quarantine", DbRole::Writer(lease.tenant), look).await?;
        rows.rejected.retain(|row| !known.iter().any(|hash| hash == &row.content_hash));
        Ok(())
    }

    /// Stores a page, and with it the watermark that its window's end allows. Nothing to store is no transaction. Fails
    /// where the page that the run wrote before is gone.
    pub async fn write_page(
        &self,
        lease: &Lease,
        rows: &PageRows<'_>,
        position: PagePosition,
        before: Option<LastWrite>,
    ) -> Result<WriteCounts, SyncError> {
        let watermark = match position {
            PagePosition::MidWindow => None,
            PagePosition::WindowEnd(watermark) => watermark,
        };
        if rows.incidents.is_empty() && rows.rejected.is_empty() && watermark.is_none() {
            return Ok(WriteCounts { last_write: before, ..WriteCounts::default() });
        }
        // The end of a window takes all pages before it to the disk.
        let durability = match position {
            PagePosition::MidWindow => Durability::Deferred,
            PagePosition::WindowEnd(_) => Durability::Immediate,
        };
        let write = async |connection: &mut PgConnection| {
            if let Some(last_write) = before
                && !last_write_exists(lease, last_write, connection).await?
            {
                return Ok(Err(SyncError::LostCommit));
            }
            let alerts = write_rows(connection, lease, rows).await?;
            failpoint::reach("page.uncommitted").await;
            if let Some(watermark) = watermark {
                let advance = sqlx::query(include_str!("sql/advance_watermark.sql"));
                advance.bind(lease.tenant.0).bind(watermark).execute(connection).await?;
                failpoint::reach("watermark.uncommitted").await;
            }
            let last_write = |row: &IncidentRow<'_>| LastWrite {
                incident_id: row.incident_id,
                content_hash: row.content_hash,
            };
            let last_write = rows.incidents.last().map(last_write).or(before);
            Ok(Ok(WriteCounts {
                incidents: rows.incidents.len(),
                alerts,
                rejected: rows.rejected.len(),
                last_write,
            }))
        };
        let written = self.transact_leased("writing a page", lease, durability, write).await?;
        failpoint::reach(if watermark.is_some() {
            "watermark.committed"
        } else {
            "page.committed"
        })
        .await;
        written
    }
}

async fn last_write_exists(
    lease: &Lease,
    last_write: LastWrite,
    connection: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    let look = sqlx::query_scalar(include_str!("sql/check_mark.sql"));
    look.bind(lease.tenant.0)
        .bind(last_write.incident_id)
        .bind(last_write.content_hash)
        .fetch_one(connection)
        .await
}

/// Answers how many alerts were written.
async fn write_rows(
    connection: &mut PgConnection,
    lease: &Lease,
    rows: &PageRows<'_>,
) -> Result<usize, sqlx::Error> {
    let tenant = lease.tenant.0;
    let mut written = 0;
    if !rows.incidents.is_empty() {
        let ids = column(&rows.incidents, |row| row.incident_id);
        write_incidents(connection, lease, &rows.incidents).await?;
        sqlx::query(include_str!("sql/delete_healed.sql"))
            .bind(tenant)
            .bind(&ids)
            .execute(&mut *connection)
            .await?;
        let mut alerts = write_alerts(connection, lease, &rows.alerts).await?;
        written = alerts.inserted.len() + alerts.updated.len();
        // A new alert's devices and evidence are inserted without looking, which is twice as fast. If the alert
        // alone was deleted by hand, that fails, and the page is stored again one incident at a time: with a look.
        if rows.incidents.len() == 1 {
            alerts.updated.extend(alerts.inserted.drain());
        }
        write_alert_devices(connection, lease, rows, &alerts).await?;
        write_devices(connection, lease, &rows.devices).await?;
        write_evidence(connection, lease, &rows.evidence, &alerts).await?;
        write_comments(connection, lease, rows, &ids).await?;
    }
    if !rows.rejected.is_empty() {
        sqlx::query(include_str!("sql/insert_rejected.sql"))
            .bind(tenant)
            .bind(column(&rows.rejected, |row| row.incident_id))
            .bind(column(&rows.rejected, |row| row.reason.as_str()))
            .bind(column(&rows.rejected, |row| row.payload))
            .bind(column(&rows.rejected, |row| row.content_hash))
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
    rows: &[IncidentRow<'_>],
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(include_str!("sql/upsert_incidents.sql"))
        .bind(lease.tenant.0)
        .bind(column(rows, |row| row.incident_id))
        .bind(column(rows, |row| row.last_update_time));
    bind_columns(query, rows.iter().map(|row| &row.columns)).execute(&mut *connection).await?;
    sqlx::query(include_str!("sql/upsert_payloads.sql"))
        .bind(lease.tenant.0)
        .bind(column(rows, |row| row.incident_id))
        .bind(column(rows, |row| row.content_hash))
        .bind(column(rows, |row| JsonText(row.payload)))
        .execute(connection)
        .await?;
    Ok(())
}

/// What became of a page's alerts. The devices and entities of one whose newer state is stored are old as well: it is in
/// neither list, and they are left out.
struct AlertsWritten {
    inserted: HashSet<String>,
    updated: HashSet<String>,
}

async fn write_alerts(
    connection: &mut PgConnection,
    lease: &Lease,
    rows: &[AlertRow<'_>],
) -> Result<AlertsWritten, sqlx::Error> {
    let accepted = sqlx::query_as::<_, (String, bool)>(include_str!("sql/upsert_alerts.sql"))
        .bind(lease.tenant.0)
        .bind(column(rows, AlertRecord))
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
    let of = |chosen: &HashSet<String>| -> (Vec<&str>, Vec<&str>) {
        let rows =
            rows.alert_devices.iter().filter(|(alert_id, _)| chosen.contains(alert_id.as_ref()));
        rows.map(|(alert_id, device_id)| (alert_id.as_ref(), device_id.as_ref())).unzip()
    };
    let (alert_ids, device_ids) = of(&alerts.inserted);
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
    let (alert_ids, device_ids) = of(&alerts.updated);
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
    rows: &[DeviceRow<'_>],
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(include_str!("sql/upsert_devices.sql"))
        .bind(lease.tenant.0)
        .bind(column(rows, |row| row.device_id.as_ref()))
        .bind(column(rows, |row| row.last_seen));
    bind_columns(query, rows.iter().map(|row| &row.columns)).execute(connection).await?;
    Ok(())
}

async fn write_evidence(
    connection: &mut PgConnection,
    lease: &Lease,
    rows: &[EvidenceRow<'_>],
    alerts: &AlertsWritten,
) -> Result<(), sqlx::Error> {
    let of = |chosen: &HashSet<String>| -> Vec<&EvidenceRow<'_>> {
        rows.iter().filter(|row| chosen.contains(row.alert_id.as_ref())).collect()
    };
    let new = of(&alerts.inserted);
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
    let listed = of(&alerts.updated);
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
