//! Brings one tenant up to date: pages in, rows out, and the watermark moves only with the last rows of a window.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::defender::ORDINARY_BYTES_MAX;
use crate::defender::paging::{PageSummary, Plan, ReadScope};
use crate::error::{Owner, SyncError};
use crate::incident::gap::Gap;
use crate::incident::rows::{self, Hash, ListedVersion, RawIncident};
use crate::incident::window::{poll_from, to_delta};
use crate::store::Claim;
use crate::store::lease::RunKind;
use crate::store::runs::Counts;
use crate::store::write_page::{KnownVersions, LastWrite, PagePosition};
use crate::sync::page_fetcher::{PageFetcher, Services};
use crate::sync::retry::with_retries;
use crate::tenant::Tenant;

/// A run of the daemon ends at the first move of the watermark after so many pages, so that a long history lets others in.
pub const PAGES_PER_SLICE: usize = 50;

/// Holes that one run tries again: three calls each while they last.
const GAPS_PER_RUN: usize = 20;

/// Each may be as large as a page.
const REJECTED_AT_ONCE: i64 = 10;

/// How far a run reaches.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// A poll starts this far before the watermark.
    pub overlap: Duration,
    /// A first synchronisation goes back this far.
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
pub struct TenantRun<'a> {
    /// The parties.
    pub services: &'a Services,
    /// Whose incidents.
    pub tenant: &'a Tenant,
    /// The right to write them.
    pub claim: &'a Claim,
    /// How far.
    pub options: RunOptions,
    /// Where its pages come from, and what counts them.
    pub pages: &'a PageFetcher<'a>,
    /// What it has written last.
    pub last_write: Mutex<Option<LastWrite>>,
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

    /// Of a run that could not tell itself what it did.
    pub fn aborted(claim: &Claim, failure: SyncError) -> Self {
        Self { is_drained: false, failure: Some(failure), ..Self::new(claim) }
    }
}

impl TenantRun<'_> {
    /// Runs to the end and tells what was done; the counts are left to the pages.
    pub async fn run(self) -> RunReport {
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

    async fn read(&self, report: &mut RunReport) -> Result<(), SyncError> {
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

    /// Reads again what the API could not serve; what it can serve by now is no hole any more.
    async fn retry_gaps(&self, gaps: &mut Vec<Gap>) -> Result<(), SyncError> {
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

    /// Reads and stores one scope; answers whether all of it. A page is written while the next one is fetched. New holes
    /// are added to `gaps`.
    async fn read_scope(
        &self,
        mut plan: Plan,
        scope: ReadScope,
        gaps: &mut Vec<Gap>,
        reached: &mut Option<DateTime<Utc>>,
    ) -> Result<bool, SyncError> {
        let mut next = self.pages.next(&mut plan).await?;
        let mut pages = 0;
        while let Some(answer) = next {
            pages += 1;
            let elements = rows::elements(answer.incidents());
            let facts = PageSummary {
                rows: elements.iter().map(ListedVersion::from).collect(),
                server_time: answer.server_time,
                next_link: answer.next_link.clone(),
            };
            let edge = plan.accept(&facts)?;
            if let Some(gap) = plan.take_gap() {
                self.record_gap(&gap).await?;
                gaps.push(gap);
            }
            // The API's clock may be ahead, and what happens before it comes is not read yet.
            let settled =
                edge.map(|edge| answer.asked_at.map_or(edge, |asked_at| edge.min(asked_at)));
            let watermark = settled.filter(|edge| {
                self.options.moves_watermark(self.claim, scope) && Some(*edge) > *reached
            });
            self.pages.count(|counts| counts.incidents_seen += elements.len());
            // Before the next page is asked for, so that a tenant that waits here holds one page, not two.
            let permit = self.services.writers.acquire().await;
            let store = async {
                let position = if edge.is_some() {
                    PagePosition::WindowEnd(watermark)
                } else {
                    PagePosition::MidWindow
                };
                let stored = self.store_page(elements, position, scope).await;
                drop(permit);
                stored
            };
            // Only where the watermark moved: the next run goes on from there, and would begin anew anywhere else.
            if watermark.is_some() && pages >= self.options.pages_max && plan.request().is_some() {
                store.await?;
                *reached = watermark.or(*reached);
                return Ok(false);
            }
            if answer.is_large() {
                // The next one may be as large, and there is room for one.
                store.await?;
                drop(answer);
                *reached = watermark.or(*reached);
                next = self.pages.next(&mut plan).await?;
                continue;
            }
            // What cannot be stored ends the run at once; what cannot be fetched lets the page before it be stored.
            let fetch = async { Ok::<_, SyncError>(self.pages.next(&mut plan).await) };
            let (fetched, ()) = tokio::try_join!(fetch, store)?;
            *reached = watermark.or(*reached);
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

    async fn store_page(
        &self,
        elements: Vec<RawIncident<'_>>,
        position: PagePosition,
        scope: ReadScope,
    ) -> Result<(), SyncError> {
        let store = &self.services.store;
        let lease = &self.claim.lease;
        let elements = rows::newest_of_each(elements);
        let never = CancellationToken::new();
        let known = with_retries(self.services.retry_policy, &never, || {
            store.known_versions(lease.tenant, &elements)
        })
        .await?;
        let unknown = known.without_known(elements);
        let late = if scope.to.is_none() { self.found_late(&unknown, &known) } else { 0 };
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
        self.pages.count(|counts| counts.found_late += late);
        Ok(())
    }

    async fn store_part(
        &self,
        elements: &[RawIncident<'_>],
        position: PagePosition,
    ) -> Result<(), SyncError> {
        match self.write(elements, position).await {
            Err(error) if error.is_value_refused() => {}
            other => return other,
        }
        // Something in it is more than Postgres takes: store what can be stored, and set the rest aside.
        for element in elements {
            let alone = std::slice::from_ref(element);
            match self.write(alone, PagePosition::MidWindow).await {
                Err(error) if error.is_value_refused() => {
                    self.quarantine(element, &error).await?;
                }
                other => other?,
            }
        }
        self.write(&[], position).await
    }

    /// What this version can decode and Postgres takes leaves the quarantine.
    async fn retry_rejected(&self) -> Result<(), SyncError> {
        let (store, lease) = (&self.services.store, &self.claim.lease);
        let anywhere = ReadScope { from: None, to: None, lookback: Duration::ZERO, status: None };
        let mut after = 0;
        loop {
            let batch = store.rejected(lease, after, REJECTED_AT_ONCE).await?;
            let Some((last, _)) = batch.last() else { return Ok(()) };
            after = *last;
            let elements: Vec<RawIncident<'_>> =
                batch.into_iter().map(|(_, element)| element).collect();
            self.pages.count(|counts| counts.incidents_seen += elements.len());
            let known = store.known_versions(lease.tenant, &elements).await?;
            let (obsolete, elements): (Vec<_>, Vec<_>) = elements
                .into_iter()
                .partition(|element| element.head.incident_id.is_some() && !known.is_news(element));
            let hashes: Vec<Hash> = obsolete.iter().map(|element| element.hash).collect();
            if !hashes.is_empty() {
                store.forget_obsolete(lease, &hashes).await?;
            }
            self.store_page(elements, PagePosition::MidWindow, anywhere).await?;
        }
    }

    /// Versions that lie so far behind the watermark that no poll would look for them any more. Those of a hole were
    /// never thought to be stored.
    fn found_late(&self, unknown: &[RawIncident<'_>], known: &KnownVersions) -> usize {
        let looks_back = matches!(self.claim.kind, RunKind::Open | RunKind::Reconcile);
        let Some(watermark) = self.claim.watermark.filter(|_| looks_back) else { return 0 };
        let polled_from = poll_from(watermark, self.options.overlap);
        let is_late = |element: &&RawIncident<'_>| {
            element.head.last_update_time.is_some_and(|served| served < polled_from)
                && known.is_news(element)
        };
        unknown.iter().filter(is_late).count()
    }

    async fn write(
        &self,
        elements: &[RawIncident<'_>],
        position: PagePosition,
    ) -> Result<(), SyncError> {
        let rows = rows::of_page(self.tenant.id, elements)?;
        self.write_rows(rows, position).await
    }

    async fn quarantine(
        &self,
        element: &RawIncident<'_>,
        error: &SyncError,
    ) -> Result<(), SyncError> {
        let rejected = vec![rows::rejected(element, error.to_string())];
        self.write_rows(
            rows::PageRows { rejected, ..rows::PageRows::default() },
            PagePosition::MidWindow,
        )
        .await
    }

    async fn write_rows(
        &self,
        mut rows: rows::PageRows<'_>,
        position: PagePosition,
    ) -> Result<(), SyncError> {
        let store = &self.services.store;
        let lease = &self.claim.lease;
        store.forget_known_rejects(lease, &mut rows).await?;
        // A page that was fetched is written even while we stop: it takes less time than reading it again.
        let never = CancellationToken::new();
        let before = *self.last_write.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || store.write_page(lease, &rows, position, before);
        let span = tracing::info_span!("store_rows", incidents = rows.incidents.len());
        let written = Box::pin(with_retries(self.services.retry_policy, &never, write))
            .instrument(span)
            .await?;
        *self.last_write.lock().unwrap_or_else(PoisonError::into_inner) = written.last_write;
        if !rows.mistyped.is_empty() {
            tracing::debug!(tenant.id = %self.tenant.id, fields = ?rows.mistyped, "fields of an unexpected type");
        }
        self.pages.count(|counts| {
            counts.incidents_written += written.incidents;
            counts.alerts_written += written.alerts;
            counts.rejected += written.rejected;
            counts.mistyped_fields += rows.mistyped.len();
        });
        Ok(())
    }
}

/// How many of these incidents are written at once: all of an ordinary page, a few of a large one. On its way to Postgres an
/// incident takes several times the memory of its text.
fn part_of(elements: &[RawIncident<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |element: &&RawIncident<'_>| {
        bytes += element.text.len();
        bytes <= ORDINARY_BYTES_MAX
    };
    elements.iter().take_while(fits).count().max(1).min(elements.len())
}

#[cfg(test)]
mod simulation;
