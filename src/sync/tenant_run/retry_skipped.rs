//! Tries again what earlier runs could not read or store: gaps and the quarantine.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::TenantRun;
use crate::error::{ErrorClass, Owner, SyncError, TOO_LARGE_ADVICE};
use crate::incident::gap::Gap;
use crate::incident::hash::Hash;
use crate::incident::paging::{Plan, ReadScope};
use crate::incident::raw::RawIncident;
use crate::store::write_page::PagePosition;
use crate::sync::retry::with_retries;

/// Gaps that one run tries again: each costs three calls while it lasts.
const GAPS_PER_RUN: usize = 20;

/// Elements of the quarantine that are read together; each may be as large as a page.
const REJECTED_AT_ONCE: i64 = 10;

impl TenantRun<'_, '_> {
    /// Reads gaps again and deletes those that the API now serves. The others stay in `gaps`.
    pub(super) async fn retry_gaps(&mut self, gaps: &mut Vec<Gap>) -> Result<(), SyncError> {
        let never = CancellationToken::new();
        let mut still = gaps.split_off(gaps.len().min(GAPS_PER_RUN));
        let mut is_outage = false;
        for gap in std::mem::take(gaps) {
            // One failure may be an outage, in which each further gap would cost three calls.
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
            let plan = Plan::of_gap(&gap, self.pages.source());
            match Box::pin(self.read_scope(plan, scope, &mut still, &mut None)).await {
                // The rest of it may be shorter, and has a row of its own.
                Ok(_) if still[known..].iter().all(|left| left.from != gap.from) => {
                    let store = &self.services.store;
                    let delete = || store.delete_gap(&self.claim.lease, &gap);
                    with_retries(self.services.retry_policy, &never, delete).await?;
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

    /// Stores a gap, before the watermark passes it.
    pub(super) async fn record_gap(&self, gap: &Gap) -> Result<(), SyncError> {
        let store = &self.services.store;
        let never = CancellationToken::new();
        let advice = if gap.reason.class == ErrorClass::TooLarge.as_str() {
            TOO_LARGE_ADVICE
        } else {
            "Open a ticket with Microsoft and give tenant, window and tracking id; the window is read again every hour"
        };
        tracing::warn!(
            tenant.id = %self.tenant.id, tenant.name = self.tenant.name, window_from = %gap.from, window_to = %gap.to,
            class = gap.reason.class, owner = Owner::Operator.as_str(), error = gap.reason.message,
            advice, "A part of the list is missing; reading the rest"
        );
        with_retries(self.services.retry_policy, &never, || {
            store.record_gap(&self.claim.lease, gap)
        })
        .await
    }

    /// Decodes and stores the quarantine again; what this version can store is deleted from it.
    pub(super) async fn retry_rejected(&mut self) -> Result<(), SyncError> {
        let store = &self.services.store;
        let lease = &self.claim.lease;
        let retry_policy = self.services.retry_policy;
        let never = CancellationToken::new();
        let anywhere = ReadScope { from: None, to: None, lookback: Duration::ZERO, status: None };
        let source = self.tenant.source();
        let mut after = 0;
        loop {
            let read = || store.rejected(lease, source, after, REJECTED_AT_ONCE);
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
                let delete = || store.delete_obsolete(lease, &hashes);
                with_retries(retry_policy, &never, delete).await?;
            }
            self.writer.store_page(elements, PagePosition::MidWindow, anywhere).await?;
            self.pages.show(&self.writer.counts);
        }
    }
}
