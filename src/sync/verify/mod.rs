//! Reads the API again and compares it with the database, without writing a row of data.
//!
//! The database has every version up to its watermark, except the overlap that the next poll reads again. Newer versions
//! are not compared.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::entra::Tenant;
use crate::error::SyncError;
use crate::incident::decode;
use crate::incident::gap::Gap;
use crate::incident::paging::{Plan, ReadScope};
use crate::incident::raw::{self, RawIncident};
use crate::incident::window::{poll_from, to_delta};
use crate::store::runs::Counts;
use crate::sync::page_fetcher::{PageFetcher, Services};
use crate::sync::progress::{Progress, TenantProgress};

mod drift;

pub use drift::Drift;
use drift::differing_alerts;

/// Microsoft may delete an incident some hours before or after the time that we compute.
const RETENTION_MARGIN: TimeDelta = TimeDelta::days(1);

#[derive(Debug, Clone, Copy)]
pub struct VerifyRange {
    /// Only incidents updated since then; otherwise all that the API retains.
    pub since: Option<DateTime<Utc>>,
    /// How far back the first sync reached.
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
            self.drift.failure = Some("not synced yet".to_owned());
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
        // An incident that was updated during the reading moved from its window to the end of the list.
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

    /// Reads one scope and compares what is older than `edge`; returns the server's time at the start.
    async fn read(
        &mut self,
        pages: &mut PageFetcher<'_>,
        scope: ReadScope,
        edge: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, SyncError> {
        let mut plan = Plan::new(scope, &self.gaps, pages.source());
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
        // Pages overlap and a window may be read twice: each version is compared once.
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
        let mut current = Vec::new();
        let mut absent = Vec::new();
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
        let rows = decode::page_rows(self.tenant.id, self.tenant.source(), current)?;
        let ids: Vec<&str> = rows.alerts.iter().map(|row| row.alert_id.as_ref()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let stored = self.services.store.stored_alerts(self.tenant.id, &ids).await?;
        self.drift.alerts.extend(differing_alerts(&rows, &stored));
        Ok(())
    }
}
