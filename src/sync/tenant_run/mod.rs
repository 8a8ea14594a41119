//! Brings one tenant up to date: pages in, rows out, and the watermark moves only with the last rows of a window.

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::entra::Tenant;
use crate::error::SyncError;
use crate::incident::gap::Gap;
use crate::incident::paging::{Plan, ReadScope};
use crate::store::Claim;
use crate::store::lease::RunKind;
use crate::store::runs::Counts;
use crate::store::write_page::PagePosition;
use crate::sync::page_fetcher::{PageFetcher, PlannedPage, Services};
use crate::sync::page_writer::PageWriter;
use crate::sync::retry::with_retries;
use crate::tenant::Source;

mod alerts;
mod options;
mod reconcile;
mod retry_skipped;
#[cfg(test)]
mod simulation;

pub use options::{RunOptions, SyncMode};

/// After this many pages a run of the daemon ends at the next move of the watermark, so that a long first sync leaves slots
/// to other tenants.
pub const PAGES_PER_SLICE: usize = 50;

/// What a run did, whatever its outcome.
#[derive(Debug)]
pub struct RunReport {
    pub counts: Counts,
    /// First `lastUpdateTime` requested.
    pub window_from: Option<DateTime<Utc>>,
    /// The watermark that it reached.
    pub watermark: Option<DateTime<Utc>>,
    /// Whether it read its whole scope.
    pub is_drained: bool,
    pub failure: Option<SyncError>,
}

/// One run of one tenant.
#[derive(Debug)]
pub struct TenantRun<'r, 'a> {
    pub services: &'a Services,
    pub tenant: &'a Tenant,
    pub claim: &'a Claim,
    pub options: RunOptions,
    /// Borrowed, as the writer is, so that the counts outlive a cancelled run.
    pub pages: &'r mut PageFetcher<'a>,
    pub writer: &'r mut PageWriter<'a>,
}

impl RunReport {
    fn new(claim: &Claim) -> Self {
        Self {
            counts: Counts::default(),
            window_from: None,
            watermark: claim.watermark,
            is_drained: true,
            failure: None,
        }
    }

    /// The report of a run that panicked or lost its lease and made none.
    pub fn aborted(claim: &Claim, failure: SyncError) -> Self {
        Self { is_drained: false, failure: Some(failure), ..Self::new(claim) }
    }
}

impl TenantRun<'_, '_> {
    /// Runs to the end and reports the result; fetcher and writer have the counts.
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
        let never = CancellationToken::new();
        let look = || self.services.store.gaps(self.tenant.id);
        let mut gaps = with_retries(self.services.retry_policy, &never, look).await?;
        // Not in polls: gaps are tried again every hour, with the open incidents.
        if !matches!(self.claim.kind, RunKind::Poll | RunKind::Backfill) {
            Box::pin(self.retry_gaps(&mut gaps)).await?;
        }
        for scope in self.options.scopes(self.claim, self.pages.source()) {
            report.window_from = report.window_from.or(scope.from);
            if self.lists_versions_only() {
                Box::pin(self.reconcile_versions(scope, &mut gaps)).await?;
                continue;
            }
            let plan = Plan::new(scope, &gaps, self.pages.source());
            report.is_drained &=
                Box::pin(self.read_scope(plan, scope, &mut gaps, &mut report.watermark)).await?;
        }
        // An alert is stored with its incident, so incidents come first.
        if report.is_drained && self.reads_alerts() {
            report.is_drained = Box::pin(self.read_alerts()).await?;
        }
        Ok(())
    }

    /// Whether only versions are listed, and incidents are read one by one.
    fn lists_versions_only(&self) -> bool {
        self.claim.kind == RunKind::Reconcile && self.pages.source() == Source::Graph
    }

    /// Reads and stores one scope; returns whether all of it was read. A page is written while the next one is fetched. New
    /// gaps are added to `gaps`.
    async fn read_scope(
        &mut self,
        mut plan: Plan,
        scope: ReadScope,
        gaps: &mut Vec<Gap>,
        reached: &mut Option<DateTime<Utc>>,
    ) -> Result<bool, SyncError> {
        let mut next = self.pages.next(&mut plan).await?;
        let mut pages = 0;
        // The state of the first page that a first sync of Graph shows.
        let is_first_sync = self.claim.watermark.is_none() && self.pages.source() == Source::Graph;
        let mut began = next.as_ref().filter(|_| is_first_sync).map(PlannedPage::shown_at);
        while let Some(page) = next {
            pages += 1;
            if let Some(gap) = &page.gap {
                self.record_gap(gap).await?;
                gaps.push(gap.clone());
            }
            let watermark = page.watermark.filter(|edge| {
                self.options.moves_watermark(self.claim, scope) && Some(*edge) > *reached
            });
            if watermark.is_some()
                && let Some(began) = began.take()
            {
                self.start_alerts(began).await?;
            }
            let position = if page.watermark.is_some() {
                PagePosition::WindowEnd(watermark)
            } else {
                PagePosition::MidWindow
            };
            // Only where the watermark moves: the next run starts there and would otherwise repeat everything.
            let ends_slice =
                watermark.is_some() && pages >= self.options.pages_max && plan.request().is_some();
            // Acquired before the next page is fetched, so that a waiting tenant has one page in memory, not two.
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
                // A failed write cancels the fetch; a failed fetch does not cancel the write of the page before it.
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
}
