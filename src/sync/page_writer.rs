//! Stores the pages of one run: what is not stored yet, in parts that fit in memory; what cannot be stored is quarantined.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::api::ORDINARY_BYTES_MAX;
use crate::entra::Tenant;
use crate::error::SyncError;
use crate::incident::decode;
use crate::incident::decode::key::{self, AlertKey};
use crate::incident::paging::ReadScope;
use crate::incident::raw::{self, RawIncident};
use crate::incident::rows::{PageRows, RejectedRow};
use crate::incident::window::poll_from;
use crate::store::Claim;
use crate::store::lease::RunKind;
use crate::store::runs::Counts;
use crate::store::stored_versions::KnownVersions;
use crate::store::write_page::{LastWrite, PagePosition};
use crate::sync::page_fetcher::Services;
use crate::sync::retry::with_retries;

/// The writing half of a run. It owns its counts and its last write: pages are stored one after the other.
#[derive(Debug)]
pub struct PageWriter<'a> {
    services: &'a Services,
    tenant: &'a Tenant,
    claim: &'a Claim,
    overlap: Duration,
    overlap_min: Duration,
    last_write: Option<LastWrite>,
    pub counts: Counts,
}

impl<'a> PageWriter<'a> {
    /// A writer under this claim. `overlap` is how far a poll starts before the watermark, and `overlap_min` how far it is
    /// configured to.
    pub fn new(
        services: &'a Services,
        tenant: &'a Tenant,
        claim: &'a Claim,
        overlap: Duration,
        overlap_min: Duration,
    ) -> Self {
        let counts = Counts::default();
        Self { services, tenant, claim, overlap, overlap_min, last_write: None, counts }
    }
}

impl PageWriter<'_> {
    /// Stores the incidents of a page that are not stored yet, and with the last of them the watermark if the page ends its
    /// window.
    pub async fn store_page(
        &mut self,
        elements: Vec<RawIncident<'_>>,
        position: PagePosition,
        scope: ReadScope,
    ) -> Result<(), SyncError> {
        let store = &self.services.store;
        let lease = &self.claim.lease;
        let elements = raw::newest_of_each(elements);
        let never = CancellationToken::new();
        let known = with_retries(self.services.retry_policy, &never, || {
            store.known_versions(lease.tenant, &elements)
        })
        .await?;
        let unknown = known.without_known(elements);
        let (late, lateness) =
            if scope.to.is_none() { self.found_late(&unknown, &known) } else { Default::default() };
        let mut rest = unknown.as_slice();
        loop {
            let (part, after) = rest.split_at(part_of(rest));
            if after.is_empty() {
                self.store_part(part, position).await?;
                break;
            }
            self.store_part(part, PagePosition::MidWindow).await?;
            rest = after;
        }
        self.counts.found_late += late;
        self.counts.lateness = self.counts.lateness.max(lateness);
        Ok(())
    }

    /// Stores the alerts of a page that are news and whose incidents are stored, and with the last of them their watermark. The
    /// others come with their incident.
    pub async fn store_alerts(
        &mut self,
        elements: Vec<RawIncident<'_>>,
        watermark: Option<DateTime<Utc>>,
    ) -> Result<(), SyncError> {
        let store = &self.services.store;
        let keys: Vec<AlertKey> =
            elements.iter().map(|element| key::alert(&element.text)).collect();
        let never = CancellationToken::new();
        let look = || store.known_alerts(self.claim.lease.tenant, &keys);
        let known = with_retries(self.services.retry_policy, &never, look).await?;
        let news = elements.into_iter().zip(&keys).filter(|(_, key)| known.is_news(key));
        let news: Vec<RawIncident<'_>> = news.map(|(element, _)| element).collect();
        let mut rest = news.as_slice();
        loop {
            let (part, after) = rest.split_at(part_of(rest));
            let position = PagePosition::Alerts(watermark.filter(|_| after.is_empty()));
            let mut rows = decode::alert_rows(self.tenant.id, part)?;
            rows.tie_to_incidents(|incident_id| known.incident_version(incident_id));
            self.write_rows(rows, position).await?;
            if after.is_empty() {
                return Ok(());
            }
            rest = after;
        }
    }

    async fn store_part(
        &mut self,
        elements: &[RawIncident<'_>],
        position: PagePosition,
    ) -> Result<(), SyncError> {
        match self.write(elements, position).await {
            Err(error) if is_rejected_by_postgres(&error) => {}
            other => return other,
        }
        // Postgres refuses a value: store each incident alone and quarantine those that are refused.
        for element in elements {
            let alone = std::slice::from_ref(element);
            match self.write(alone, PagePosition::MidWindow).await {
                Err(error) if is_rejected_by_postgres(&error) => {
                    self.quarantine(element, &error).await?;
                }
                other => other?,
            }
        }
        self.write(&[], position).await
    }

    /// Counts versions so far behind the watermark that polls no longer read them, and measures how late the API listed a
    /// version that the configured overlap would have missed: how far it was behind the watermark when it was found. Those of
    /// a gap do not count: they were known to be missing. Nor do those from before a change of source: no poll of this source
    /// has seen them.
    fn found_late(&self, unknown: &[RawIncident<'_>], known: &KnownVersions) -> (usize, Duration) {
        let Some(watermark) = self.claim.watermark else { return Default::default() };
        let looks_back = matches!(self.claim.kind, RunKind::Open | RunKind::Reconcile);
        let is_measured = looks_back || self.claim.kind == RunKind::Poll;
        let polled_from = poll_from(watermark, self.overlap);
        let expected_from = poll_from(watermark, self.overlap_min);
        let since = self.claim.source_since;
        let news = unknown.iter().filter(|element| known.is_news(element));
        let served = news.filter_map(|element| element.head.last_update_time);
        let late: Vec<_> = served
            .filter(|served| *served < expected_from && since.is_none_or(|since| *served >= since))
            .collect();
        let missed = late.iter().filter(|served| looks_back && **served < polled_from).count();
        let oldest = late.iter().min().filter(|_| is_measured);
        let lateness = oldest.and_then(|oldest| (watermark - oldest).to_std().ok());
        (missed, lateness.unwrap_or_default())
    }

    async fn write(
        &mut self,
        elements: &[RawIncident<'_>],
        position: PagePosition,
    ) -> Result<(), SyncError> {
        let rows = decode::page_rows(self.tenant.id, self.tenant.source(), elements)?;
        self.write_rows(rows, position).await
    }

    async fn quarantine(
        &mut self,
        element: &RawIncident<'_>,
        error: &SyncError,
    ) -> Result<(), SyncError> {
        let rejected = vec![RejectedRow::new(element, error.to_string())];
        self.write_rows(
            PageRows { rejected, source: self.tenant.source(), ..PageRows::default() },
            PagePosition::MidWindow,
        )
        .await
    }

    async fn write_rows(
        &mut self,
        mut rows: PageRows<'_>,
        position: PagePosition,
    ) -> Result<(), SyncError> {
        let store = &self.services.store;
        let lease = &self.claim.lease;
        store.drop_known_rejects(lease, &mut rows).await?;
        // A fetched page is written even while the process stops: writing takes less time than reading it again.
        let never = CancellationToken::new();
        let before = self.last_write;
        let write = || store.write_page(lease, &rows, position, before);
        let span = tracing::info_span!("store_rows", incidents = rows.incidents.len());
        let written = Box::pin(with_retries(self.services.retry_policy, &never, write))
            .instrument(span)
            .await?;
        self.last_write = written.last_write;
        if !rows.mistyped.is_empty() {
            tracing::debug!(tenant.id = %self.tenant.id, fields = ?rows.mistyped, "Fields of an unexpected type");
        }
        self.counts.incidents_written += written.incidents;
        self.counts.alerts_written += written.alerts;
        self.counts.rejected += written.rejected;
        self.counts.mistyped_fields += rows.mistyped.len();
        Ok(())
    }
}

/// How many of these incidents are written together: all of an ordinary page, a few of a large one. Encoded for Postgres, an
/// incident takes several times the memory of its text.
fn part_of(elements: &[RawIncident<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |element: &&RawIncident<'_>| {
        bytes += element.text.len();
        bytes <= ORDINARY_BYTES_MAX
    };
    elements.iter().take_while(fits).count().max(1).min(elements.len())
}

/// Classes 22 (data), 23 (constraints) and 54 (limits): the content is refused at every try.
fn is_rejected_by_postgres(error: &SyncError) -> bool {
    let refused = |code: &String| ["22", "23", "54"].iter().any(|class| code.starts_with(class));
    matches!(error, SyncError::Database { sqlstate: Some(code), .. } if refused(code))
}
