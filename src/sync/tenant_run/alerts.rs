//! Alerts that change without their incident: Graph lists them by their own times, with a watermark of their own.

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::TenantRun;
use crate::error::SyncError;
use crate::incident::paging::{Plan, ReadScope};
use crate::incident::window::{poll_from, to_delta};
use crate::store::lease::RunKind;
use crate::sync::retry::with_retries;
use crate::sync::tenant_run::SyncMode;
use crate::tenant::Source;

impl TenantRun<'_, '_> {
    /// Whether the run reads alerts after its incidents.
    pub(super) fn reads_alerts(&self) -> bool {
        let is_news =
            matches!(self.claim.kind, RunKind::Poll | RunKind::Backfill | RunKind::Manual);
        self.pages.source() == Source::Graph && is_news && self.options.mode != SyncMode::Quarantine
    }

    /// Reads and stores the alerts that changed since their watermark; returns whether all of them were read.
    pub(super) async fn read_alerts(&mut self) -> Result<bool, SyncError> {
        let Some((scope, mut reached)) = self.alerts_scope().await? else { return Ok(true) };
        let mut plan = Plan::of_alerts(scope);
        let mut pages = 0;
        while let Some(page) = self.pages.next(&mut plan).await? {
            pages += 1;
            let watermark = page.watermark.filter(|edge| Some(*edge) > reached);
            let permit = self.services.writers.acquire().await;
            self.writer.store_alerts(page.elements(), watermark).await?;
            drop(permit);
            reached = watermark.or(reached);
            self.pages.show(&self.writer.counts);
            if watermark.is_some() && pages >= self.options.pages_max && plan.request().is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is read of the alerts, and their watermark. `None` while no incident is stored that an alert could belong to.
    async fn alerts_scope(&self) -> Result<Option<(ReadScope, Option<DateTime<Utc>>)>, SyncError> {
        let never = CancellationToken::new();
        let look = || self.services.store.alerts_watermark(self.tenant.id);
        let reached = with_retries(self.services.retry_policy, &never, look).await?;
        let polled = reached.map(|reached| poll_from(reached, self.options.overlap));
        // Without a watermark of their own: as far as a reconciliation of the other source would have gone.
        let reconciled = self.claim.watermark.map(|edge| edge - to_delta(self.options.reconcile));
        let scope = polled.or(reconciled).map(|from| ReadScope {
            from: Some(from),
            to: None,
            lookback: self.options.lookback,
            status: None,
        });
        Ok(scope.map(|scope| (scope, reached)))
    }

    /// Before the watermark of a first sync moves for the first time: alerts that change from now on, while their incidents
    /// are read, are read afterwards.
    pub(super) async fn start_alerts(&self, shown_at: DateTime<Utc>) -> Result<(), SyncError> {
        let never = CancellationToken::new();
        let start = || self.services.store.start_alerts(&self.claim.lease, shown_at);
        with_retries(self.services.retry_policy, &never, start).await
    }
}
