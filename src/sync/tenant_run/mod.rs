//! Brings one tenant up to date: pages in, rows out, and the watermark moves only with the last rows of a window.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::entra::Tenant;
use crate::error::{Owner, SyncError};
use crate::incident::gap::Gap;
use crate::incident::hash::Hash;
use crate::incident::paging::{Plan, ReadScope};
use crate::incident::raw::RawIncident;
use crate::incident::window::{poll_from, to_delta};
use crate::store::Claim;
use crate::store::lease::RunKind;
use crate::store::runs::Counts;
use crate::store::write_page::PagePosition;
use crate::sync::page_fetcher::{PageFetcher, Services};
use crate::sync::page_writer::PageWriter;
use crate::sync::retry::with_retries;

/// After this many pages a run of the daemon ends at the next move of the watermark, so that a long backfill does not keep a
/// slot from other tenants.
pub const PAGES_PER_SLICE: usize = 50;

/// Gaps that one run tries again: each costs three calls while it lasts.
const GAPS_PER_RUN: usize = 20;

/// Each may be as large as a page.
const REJECTED_AT_ONCE: i64 = 10;

/// How far a run reaches.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// A poll starts this far before the watermark.
    pub overlap: Duration,
    /// A backfill goes back this far.
    pub lookback: Duration,
    /// A reconciliation goes back this far before the watermark.
    pub reconcile: Duration,
    /// What a person asked for.
    pub mode: SyncMode,
    /// Pages after which the run ends at the next move of the watermark.
    pub pages_max: usize,
}

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// What is new.
    Incremental,
    /// Everything that the API retains.
    Full,
    /// All since a time.
    Since(DateTime<Utc>),
    /// What is in quarantine, once more.
    Quarantine,
}

/// What a run did, whatever happened.
#[derive(Debug)]
pub struct RunReport {
    /// What it counted.
    pub counts: Counts,
    /// First `lastUpdateTime` asked for.
    pub window_from: Option<DateTime<Utc>>,
    /// The watermark that it reached.
    pub watermark: Option<DateTime<Utc>>,
    /// Whether it read all that it was asked for.
    pub is_drained: bool,
    /// Why not.
    pub failure: Option<SyncError>,
}

/// One run over one tenant.
#[derive(Debug)]
pub struct TenantRun<'r, 'a> {
    /// The shared services.
    pub services: &'a Services,
    /// Whose incidents.
    pub tenant: &'a Tenant,
    /// The right to write them.
    pub claim: &'a Claim,
    /// How far.
    pub options: RunOptions,
    /// Fetches its pages. Lent, so that its counts outlive a run that is cut off; so is the writer.
    pub pages: &'r mut PageFetcher<'a>,
    /// Stores them.
    pub writer: &'r mut PageWriter<'a>,
}

impl RunOptions {
    /// What a run reads, one after the other: the only place where the kinds of runs differ.
    pub(crate) fn scopes(&self, claim: &Claim) -> Vec<ReadScope> {
        let scope = |from, status| ReadScope { from, to: None, lookback: self.lookback, status };
        let news = claim.watermark.map(|watermark| poll_from(watermark, self.overlap));
        match (claim.kind, self.mode) {
            (RunKind::Open, _) => {
                vec![scope(None, Some("Active")), scope(None, Some("InProgress"))]
            }
            (RunKind::Reconcile, _) => {
                vec![scope(
                    claim.watermark.map(|watermark| watermark - to_delta(self.reconcile)),
                    None,
                )]
            }
            (_, SyncMode::Full) => vec![scope(None, None)],
            (_, SyncMode::Since(time)) => vec![scope(Some(time), None)],
            (
                RunKind::Poll | RunKind::Backfill | RunKind::Manual,
                SyncMode::Incremental | SyncMode::Quarantine,
            ) => {
                vec![scope(news, None)]
            }
        }
    }

    /// A watermark may move only if nothing lies between the old one and what is read; and the overlap before the old
    /// one must be read too, because what the API lists late would lie before the overlap of the new one.
    pub(crate) fn moves_watermark(&self, claim: &Claim, scope: ReadScope) -> bool {
        let reaches_back = match (scope.from, claim.watermark) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(from), Some(watermark)) => from <= poll_from(watermark, self.overlap),
        };
        scope.status.is_none() && scope.to.is_none() && reaches_back
    }
}

impl RunReport {
    /// Nothing done yet.
    fn new(claim: &Claim) -> Self {
        let counts = Counts::default();
        Self {
            counts,
            window_from: None,
            watermark: claim.watermark,
            is_drained: true,
            failure: None,
        }
    }

    /// The report of a run that panicked or lost its lease, and left none.
    pub fn aborted(claim: &Claim, failure: SyncError) -> Self {
        Self { is_drained: false, failure: Some(failure), ..Self::new(claim) }
    }
}

impl TenantRun<'_, '_> {
    /// Runs to the end and reports what was done; fetcher and writer hold the counts.
    pub async fn run(mut self) -> RunReport {
        let mut report = RunReport::new(self.claim);
        let done = if self.options.mode == SyncMode::Quarantine {
            Box::pin(self.retry_rejected()).await
        } else {
            self.read(&mut report).await
        };
        if let Err(error) = done {
            report.is_drained = false;
            report.failure = Some(error);
        }
        report
    }

    async fn read(&mut self, report: &mut RunReport) -> Result<(), SyncError> {
        let (lease, never) = (&self.claim.lease, CancellationToken::new());
        let mut gaps = with_retries(self.services.retry_policy, &never, || {
            self.services.store.gaps(lease.tenant)
        })
        .await?;
        // A poll has no time for what failed an hour ago.
        if !matches!(self.claim.kind, RunKind::Poll | RunKind::Backfill) {
            Box::pin(self.retry_gaps(&mut gaps)).await?;
        }
        for scope in self.options.scopes(self.claim) {
            report.window_from = report.window_from.or(scope.from);
            let plan = Plan::new(scope, &gaps);
            report.is_drained &=
                Box::pin(self.read_scope(plan, scope, &mut gaps, &mut report.watermark)).await?;
        }
        Ok(())
    }

    /// Reads again what the API could not serve. What it serves by now is no gap any more.
    async fn retry_gaps(&mut self, gaps: &mut Vec<Gap>) -> Result<(), SyncError> {
        let never = CancellationToken::new();
        let mut still = gaps.split_off(gaps.len().min(GAPS_PER_RUN));
        let mut is_outage = false;
        for gap in std::mem::take(gaps) {
            if is_outage {
                still.push(gap);
                continue;
            }
            let scope = ReadScope {
                from: Some(gap.from),
                to: Some(gap.to),
                lookback: Duration::ZERO,
                status: None,
            };
            let known = still.len();
            match Box::pin(self.read_scope(Plan::of_gap(&gap), scope, &mut still, &mut None)).await
            {
                Ok(_) if still.len() == known => {
                    let (store, lease) = (&self.services.store, &self.claim.lease);
                    with_retries(self.services.retry_policy, &never, || {
                        store.delete_gap(lease, &gap)
                    })
                    .await?;
                }
                Ok(_) => {}
                Err(error) if error.smaller_page_may_help() => {
                    still.push(gap);
                    is_outage = true;
                }
                Err(error) => return Err(error),
            }
        }
        *gaps = still;
        Ok(())
    }

    /// Reads and stores one scope; returns whether all of it. A page is written while the next one is fetched. New gaps are
    /// added to `gaps`.
    async fn read_scope(
        &mut self,
        mut plan: Plan,
        scope: ReadScope,
        gaps: &mut Vec<Gap>,
        reached: &mut Option<DateTime<Utc>>,
    ) -> Result<bool, SyncError> {
        let mut next = self.pages.next(&mut plan).await?;
        let mut pages = 0;
        while let Some(page) = next {
            pages += 1;
            if let Some(gap) = &page.gap {
                self.record_gap(gap).await?;
                gaps.push(gap.clone());
            }
            let watermark = page.watermark.filter(|edge| {
                self.options.moves_watermark(self.claim, scope) && Some(*edge) > *reached
            });
            let position = if page.watermark.is_some() {
                PagePosition::WindowEnd(watermark)
            } else {
                PagePosition::MidWindow
            };
            // Only where the watermark moves: the next run starts there, and would repeat everything elsewhere.
            let ends_slice =
                watermark.is_some() && pages >= self.options.pages_max && plan.request().is_some();
            // Before the next page is fetched, so that a tenant that waits here holds one page, not two.
            let permit = self.services.writers.acquire().await;
            let Self { pages: fetcher, writer, .. } = &mut *self;
            let store = async {
                let stored = writer.store_page(page.elements(), position, scope).await;
                drop(permit);
                stored
            };
            let fetched = if ends_slice || page.is_large() {
                // Memory has room for one large page, and the next one may be large.
                store.await?;
                drop(page);
                if ends_slice { Ok(None) } else { fetcher.next(&mut plan).await }
            } else {
                // A page that cannot be stored ends the run at this point; after a failed fetch the page before is stored.
                let fetch = async { Ok::<_, SyncError>(fetcher.next(&mut plan).await) };
                let (fetched, ()) = tokio::try_join!(fetch, store)?;
                fetched
            };
            *reached = watermark.or(*reached);
            self.pages.show(&self.writer.counts);
            if ends_slice {
                return Ok(false);
            }
            next = fetched?;
        }
        Ok(true)
    }

    /// Before the watermark passes it.
    async fn record_gap(&self, gap: &Gap) -> Result<(), SyncError> {
        let (store, lease, never) =
            (&self.services.store, &self.claim.lease, CancellationToken::new());
        tracing::warn!(
            tenant.id = %self.tenant.id, tenant.name = self.tenant.name, window_from = %gap.from, window_to = %gap.to,
            class = gap.reason.class, owner = Owner::Operator.as_str(), error = gap.reason.message,
            advice = "Open a ticket with Microsoft and give tenant, window and tracking id; the window is read again every hour",
            "the API fails to serve a part of the list; the rest is read"
        );
        with_retries(self.services.retry_policy, &never, || store.record_gap(lease, gap)).await
    }

    /// Decodes and stores the quarantine again. What this version can store leaves it.
    async fn retry_rejected(&mut self) -> Result<(), SyncError> {
        let store = &self.services.store;
        let lease = &self.claim.lease;
        let retry_policy = self.services.retry_policy;
        let never = CancellationToken::new();
        let anywhere = ReadScope { from: None, to: None, lookback: Duration::ZERO, status: None };
        let mut after = 0;
        loop {
            let read = || store.rejected(lease, after, REJECTED_AT_ONCE);
            let batch = with_retries(retry_policy, &never, read).await?;
            let Some((last, _)) = batch.last() else { return Ok(()) };
            after = *last;
            let elements: Vec<RawIncident<'_>> =
                batch.into_iter().map(|(_, element)| element).collect();
            self.writer.counts.incidents_seen += elements.len();
            let look = || store.known_versions(lease.tenant, &elements);
            let known = with_retries(retry_policy, &never, look).await?;
            let (obsolete, elements): (Vec<_>, Vec<_>) = elements
                .into_iter()
                .partition(|element| element.head.incident_id.is_some() && !known.is_news(element));
            let hashes: Vec<Hash> = obsolete.iter().map(|element| element.hash).collect();
            if !hashes.is_empty() {
                let forget = || store.delete_obsolete(lease, &hashes);
                with_retries(retry_policy, &never, forget).await?;
            }
            self.writer.store_page(elements, PagePosition::MidWindow, anywhere).await?;
            self.pages.show(&self.writer.counts);
        }
    }
}

#[cfg(test)]
mod simulation;
