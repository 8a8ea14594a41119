//! Reconciliation of a Graph tenant: versions are listed, and only incidents that are missing or newer are read in full.

use tokio_util::sync::CancellationToken;

use super::TenantRun;
use crate::error::SyncError;
use crate::incident::gap::Gap;
use crate::incident::paging::{INSTANT, Plan, ReadScope};
use crate::incident::raw::ListedVersion;
use crate::store::write_page::PagePosition;
use crate::sync::page_fetcher::PlannedPage;
use crate::sync::retry::with_retries;

/// More incidents that a run finds listed and cannot read are an outage.
const GAPS_MAX: usize = 5;

impl TenantRun<'_, '_> {
    /// Reads what the scope lists and is not stored in that version. New gaps are added to `gaps`.
    pub(super) async fn reconcile_versions(
        &mut self,
        scope: ReadScope,
        gaps: &mut Vec<Gap>,
    ) -> Result<(), SyncError> {
        let mut plan = Plan::of_versions(scope, gaps);
        let known = gaps.len();
        while let Some(page) = self.pages.next(&mut plan).await? {
            if let Some(gap) = &page.gap {
                self.record_gap(gap).await?;
                gaps.push(gap.clone());
            }
            self.store_whole(&page, scope).await?;
            let unstored = self.unstored(&page.versions).await?;
            // A large page would block a large incident, which needs the same memory permit.
            drop(page);
            for version in unstored {
                if let Some(gap) = self.read_version(version, scope).await? {
                    self.record_gap(&gap).await?;
                    gaps.push(gap);
                }
                if gaps.len() - known > GAPS_MAX {
                    let window = format!("[{:?}, ..)", scope.from);
                    return Err(SyncError::UnstableListing { window });
                }
            }
        }
        Ok(())
    }

    /// The versions that are later than the stored ones.
    async fn unstored(&self, listed: &[ListedVersion]) -> Result<Vec<ListedVersion>, SyncError> {
        let never = CancellationToken::new();
        let ids: Vec<i64> = listed.iter().map(|version| version.id).filter(|id| *id >= 0).collect();
        let look = || self.services.store.versions_of(self.tenant.id, &ids);
        let known = with_retries(self.services.retry_policy, &never, look).await?;
        let is_unstored = |version: &&ListedVersion| {
            let stored = known.version(version.id);
            version.id >= 0 && stored.is_none_or(|stored| version.updated > Some(stored))
        };
        Ok(listed.iter().filter(is_unstored).copied().collect())
    }

    /// Reads and stores one incident; returns a gap if it, or a part of its alerts, cannot be served.
    async fn read_version(
        &mut self,
        version: ListedVersion,
        scope: ReadScope,
    ) -> Result<Option<Gap>, SyncError> {
        let gap = |error: &SyncError| {
            version.updated.map(|from| Gap { from, to: from + INSTANT, reason: error.into() })
        };
        match self.pages.whole_incident(version.id).await {
            Ok(page) => {
                self.store_whole(&page, scope).await?;
                Ok(page.alerts_failure().and_then(gap))
            }
            Err(error) => {
                let is_missing = matches!(error, SyncError::Api { status: 404, .. });
                let may_be_left_out = is_missing || error.smaller_page_may_help();
                match gap(&error).filter(|_| may_be_left_out) {
                    Some(gap) if self.pages.serves_versions().await => Ok(Some(gap)),
                    _ => Err(error),
                }
            }
        }
    }

    async fn store_whole(&mut self, page: &PlannedPage, scope: ReadScope) -> Result<(), SyncError> {
        let elements = page.elements();
        if elements.is_empty() {
            return Ok(());
        }
        let permit = self.services.writers.acquire().await;
        self.writer.store_page(elements, PagePosition::MidWindow, scope).await?;
        drop(permit);
        self.pages.show(&self.writer.counts);
        Ok(())
    }
}
