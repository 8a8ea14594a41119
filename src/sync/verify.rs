//! Reads the API again and compares it with the database, without writing a row of data.
//!
//! The database promises every version up to its watermark, less the overlap that the next poll reads again. What is newer
//! is not judged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::entra::Tenant;
use crate::error::SyncError;
use crate::incident::decode;
use crate::incident::gap::Gap;
use crate::incident::paging::{Plan, ReadScope};
use crate::incident::raw::{self, RawIncident};
use crate::incident::rows::{AlertRow, PageRows};
use crate::incident::window::{poll_from, to_delta};
use crate::store::compare::StoredAlert;
use crate::store::runs::Counts;
use crate::sync::page_fetcher::{PageFetcher, Services};
use crate::sync::progress::{Progress, TenantProgress};

/// Microsoft may let go of an incident some hours before or after our own reckoning.
const RETENTION_MARGIN: TimeDelta = TimeDelta::days(1);

/// How one tenant's database differs from its API.
#[derive(Debug, Serialize)]
pub struct Drift {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The operator's name for it.
    pub name: String,
    /// Incidents that were compared.
    pub compared: usize,
    /// Incidents that changed too recently to be judged.
    pub too_recent: usize,
    /// Listed by the API, not stored.
    pub missing: Vec<i64>,
    /// Stored in an older version.
    pub older: Vec<i64>,
    /// Stored, not listed by the API.
    pub extra: Vec<i64>,
    /// Alerts that are missing, older, or without some of their devices or evidence, of incidents that are current.
    pub alerts: Vec<String>,
    /// In quarantine instead of stored.
    pub rejected: usize,
    /// Parts of the list that the API fails to serve, which cannot be compared.
    pub gaps: usize,
    /// Why the comparison is not complete.
    pub failure: Option<String>,
    /// The owner of that failure.
    pub who_must_act: Option<&'static str>,
}

impl Drift {
    fn none(tenant: &Tenant) -> Self {
        Self {
            tenant_id: tenant.id.0,
            name: tenant.name.clone(),
            compared: 0,
            too_recent: 0,
            missing: Vec::new(),
            older: Vec::new(),
            extra: Vec::new(),
            alerts: Vec::new(),
            rejected: 0,
            gaps: 0,
            failure: None,
            who_must_act: None,
        }
    }

    /// Whether database and API agree as far as they were compared, and all was compared.
    pub fn is_clean(&self) -> bool {
        let Self { missing, older, extra, alerts, rejected, gaps, failure, .. } = self;
        let lists_are_empty =
            missing.is_empty() && older.is_empty() && extra.is_empty() && alerts.is_empty();
        lists_are_empty && *rejected == 0 && *gaps == 0 && failure.is_none()
    }
}

/// How far a comparison reaches.
#[derive(Debug, Clone, Copy)]
pub struct VerifyRange {
    /// Only what was updated since then; all that the API retains otherwise.
    pub since: Option<DateTime<Utc>>,
    /// How far back the first synchronisation reached.
    pub lookback: Duration,
    /// What the next poll reads again.
    pub overlap: Duration,
}

/// Compares these tenants, at most `concurrency` at a time.
pub async fn all(
    services: &Services,
    tenants: &[Arc<Tenant>],
    span: VerifyRange,
    concurrency: usize,
    stop: &CancellationToken,
    progress: &Progress,
) -> Vec<Drift> {
    let compared =
        tenants.iter().map(|each| tenant(services, each, span, stop, progress.tenant(&each.name)));
    futures::stream::iter(compared).buffered(concurrency).collect().await
}

/// Compares one tenant.
async fn tenant(
    services: &Services,
    tenant: &Tenant,
    span: VerifyRange,
    stop: &CancellationToken,
    progress: TenantProgress,
) -> Drift {
    let mut comparison = Comparison {
        services,
        tenant,
        drift: Drift::none(tenant),
        listed: HashMap::new(),
        gaps: Vec::new(),
    };
    let compared = match services.store.clock().await {
        Ok(clock) => {
            let mut pages = PageFetcher::new(services, tenant, stop, clock, progress);
            let compared = comparison.all(&mut pages, span).await;
            pages.finish();
            compared
        }
        Err(error) => Err(error),
    };
    let mut drift = comparison.drift;
    if let Err(error) = compared {
        let diagnosis = error.diagnosis();
        drift.failure = Some(format!("{} ({error})", diagnosis.advice));
        drift.who_must_act = Some(diagnosis.owner.as_str());
    }
    drift
}

struct Comparison<'a> {
    services: &'a Services,
    tenant: &'a Tenant,
    drift: Drift,
    /// The newest version that the API listed of each incident.
    listed: HashMap<i64, Option<DateTime<Utc>>>,
    gaps: Vec<Gap>,
}

impl Comparison<'_> {
    async fn all(
        &mut self,
        pages: &mut PageFetcher<'_>,
        span: VerifyRange,
    ) -> Result<(), SyncError> {
        let store = &self.services.store;
        let Some(watermark) = store.watermark(self.tenant.id).await? else {
            self.drift.failure = Some("nothing was synchronised yet".to_owned());
            return Ok(());
        };
        let edge = poll_from(watermark, span.overlap);
        self.gaps = store.gaps(self.tenant.id).await?;
        self.drift.gaps = self.gaps.len();
        let scope = |from| ReadScope { from, to: None, lookback: span.lookback, status: None };
        let began = self.read(pages, scope(span.since), edge).await?;
        let Some(began) = began else { return Ok(()) };
        let oldest = span.since.unwrap_or(began - to_delta(span.lookback) + RETENTION_MARGIN);
        if self.unlisted(oldest, edge).await?.is_empty() {
            return Ok(());
        }
        // An incident that was updated while we read has left its window for the end of the list, where we had not looked.
        self.read(pages, scope(Some(poll_from(began, span.overlap))), edge).await?;
        self.drift.extra = self.unlisted(oldest, edge).await?;
        Ok(())
    }

    async fn unlisted(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Vec<i64>, SyncError> {
        let listed: Vec<i64> = self.listed.keys().copied().collect();
        self.services.store.unlisted_incidents(self.tenant.id, from, to, &listed, &self.gaps).await
    }

    /// Reads one scope and compares what is older than `edge`; answers the server's time at its beginning.
    async fn read(
        &mut self,
        pages: &mut PageFetcher<'_>,
        scope: ReadScope,
        edge: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, SyncError> {
        let mut plan = Plan::new(scope, &self.gaps);
        let mut began = None;
        while let Some(mut page) = pages.next(&mut plan).await? {
            began = began.or(Some(page.server_time()));
            self.gaps.extend(page.gap.take());
            self.drift.gaps = self.gaps.len();
            pages.show(&Counts::default());
            self.compare(raw::newest_of_each(page.elements()), edge).await?;
        }
        Ok(began)
    }

    async fn compare(
        &mut self,
        mut elements: Vec<RawIncident<'_>>,
        edge: DateTime<Utc>,
    ) -> Result<(), SyncError> {
        let listed = &mut self.listed;
        // Pages overlap, and a window may be read twice: each version once.
        elements.retain(|element| {
            element.head.incident_id.is_none_or(|id| {
                let version = element.head.last_update_time;
                let held = listed.insert(id, version);
                held.is_none_or(|held| held < version)
            })
        });
        let before = elements.len();
        elements
            .retain(|element| element.head.last_update_time.is_none_or(|updated| updated < edge));
        self.drift.too_recent += before - elements.len();
        self.drift.compared += elements.len();
        let known = self.services.store.known_versions(self.tenant.id, &elements).await?;
        let (mut current, mut absent) = (Vec::new(), Vec::new());
        for element in elements {
            let served = element.head.last_update_time;
            match element.head.incident_id.and_then(|id| known.version(id)) {
                None => absent.push(element),
                Some(stored) if served.is_some_and(|served| stored < served) => {
                    self.drift.older.extend(element.head.incident_id);
                }
                Some(stored) if served == Some(stored) => current.push(element),
                Some(_) => {}
            }
        }
        self.note_absent(&absent).await?;
        self.compare_alerts(&current).await
    }

    async fn note_absent(&mut self, absent: &[RawIncident<'_>]) -> Result<(), SyncError> {
        if absent.is_empty() {
            return Ok(());
        }
        let set_aside = self
            .services
            .store
            .quarantined(self.tenant.id, &absent.iter().collect::<Vec<_>>())
            .await?;
        for element in absent {
            let id = element.head.incident_id;
            let is_set_aside = |(other, hash): &(Option<i64>, Vec<u8>)| {
                hash == &element.hash || id.is_some() && *other == id
            };
            match id {
                Some(id) if !set_aside.iter().any(is_set_aside) => self.drift.missing.push(id),
                _ => self.drift.rejected += 1,
            }
        }
        Ok(())
    }

    async fn compare_alerts(&mut self, current: &[RawIncident<'_>]) -> Result<(), SyncError> {
        let rows = decode::page_rows(self.tenant.id, current)?;
        let ids: Vec<&str> = rows.alerts.iter().map(|row| row.alert_id.as_ref()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let stored = self.services.store.stored_alerts(self.tenant.id, &ids).await?;
        self.drift.alerts.extend(differing_alerts(&rows, &stored));
        Ok(())
    }
}

/// The alerts of the page that are missing, older, or incomplete in the database.
fn differing_alerts(rows: &PageRows<'_>, stored: &[StoredAlert]) -> Vec<String> {
    let stored: HashMap<&str, &StoredAlert> =
        stored.iter().map(|alert| (alert.alert_id.as_str(), alert)).collect();
    let mut evidence: HashMap<&str, i64> = HashMap::new();
    for row in &rows.evidence {
        *evidence.entry(row.alert_id.as_ref()).or_default() += 1;
    }
    let mut devices: HashMap<&str, HashSet<&str>> = HashMap::new();
    for (alert, device) in &rows.alert_devices {
        devices.entry(alert.as_ref()).or_default().insert(device.as_ref());
    }
    let differs = |row: &&AlertRow<'_>| {
        let id = row.alert_id.as_ref();
        let Some(stored) = stored.get(id) else { return true };
        let served = (row.columns.last_updated_time, row.last_seen);
        let held = (stored.last_updated_time, stored.last_seen);
        let is_incomplete = || {
            stored.evidence != evidence.get(id).copied().unwrap_or(0)
                || usize::try_from(stored.devices).ok()
                    != Some(devices.get(id).map_or(0, HashSet::len))
        };
        held < served || held == served && stored.incident_id == row.incident_id && is_incomplete()
    };
    rows.alerts.iter().filter(differs).map(|row| row.alert_id.clone().into_owned()).collect()
}
