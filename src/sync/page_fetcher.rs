//! Drives a plan: token, quota, one request, a retry where that helps, and the plan's check of the page.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiClient, LargePagePermit, Page, Query};
use crate::entra::Tenant;
use crate::entra::TokenCache;
use crate::error::{Peer, Retry, SyncError};
use crate::failpoint;
use crate::incident::decode::key::IncidentKey;
use crate::incident::gap::Gap;
use crate::incident::hash::Hash;
use crate::incident::paging::{CONSISTENCY_LAG, Listing, PageSummary, Plan, Request};
use crate::incident::raw::{self, ListedVersion, RawIncident};
use crate::store::quota::Quotas;
use crate::store::runs::Counts;
use crate::store::{DatabaseClock, Store};
use crate::sync::progress::TenantProgress;
use crate::sync::retry::{RetryPolicy, with_retries};
use crate::sync::run_slots::RunSlots;
use crate::tenant::Source;

mod single_incident;

/// Shared by all runs.
#[derive(Debug)]
pub struct Services {
    pub tokens: TokenCache,
    pub api: ApiClient,
    pub store: Store,
    /// The limit of calls for each tenant.
    pub quotas: Quotas,
    pub retry_policy: RetryPolicy,
    /// Pages that are decoded and written at the same time; the others wait as text.
    pub writers: Semaphore,
    /// Limits the runs in progress.
    pub slots: RunSlots,
}

/// Permits for [`Services::writers`]: all connections except one for claims, renewals and the HTTP listener.
pub fn writers(max_connections: u32) -> Semaphore {
    Semaphore::new(usize::try_from(max_connections).unwrap_or(1).saturating_sub(1).max(1))
}

/// Fetches the pages of one tenant.
#[derive(Debug)]
pub struct PageFetcher<'a> {
    services: &'a Services,
    tenant: &'a Tenant,
    stop: &'a CancellationToken,
    clock: DatabaseClock,
    progress: TenantProgress,
    incidents_seen: usize,
    /// Atomic because the closure that is retried borrows the fetcher shared.
    api_calls: AtomicUsize,
    throttled: AtomicUsize,
}

/// A page that the plan has accepted.
#[derive(Debug)]
pub struct PlannedPage {
    page: Page,
    keys: Vec<(IncidentKey, Hash)>,
    /// The rows of a list of versions.
    pub versions: Vec<ListedVersion>,
    /// Set if the page drains its window: everything before this time is read when the page is stored.
    pub watermark: Option<DateTime<Utc>>,
    /// What the plan skips from here on. Store it before the watermark passes it.
    pub gap: Option<Gap>,
}

impl PlannedPage {
    /// The incidents or alerts in the order served; none for a list of versions.
    pub fn elements(&self) -> Vec<RawIncident<'_>> {
        let keyed = self.page.elements().zip(&self.keys);
        keyed.map(|(raw, (head, hash))| RawIncident::with_key(raw, *head, *hash)).collect()
    }

    /// The server's clock.
    pub fn server_time(&self) -> DateTime<Utc> {
        self.page.server_time
    }

    /// A time before which nothing can change any more that this page did not show.
    pub fn shown_at(&self) -> DateTime<Utc> {
        let server_time = self.page.server_time - CONSISTENCY_LAG;
        self.page.asked_at.map_or(server_time, |asked_at| server_time.min(asked_at))
    }

    /// Why a part of the alerts of a single incident is missing.
    pub fn alerts_failure(&self) -> Option<&SyncError> {
        self.page.alerts_failure.as_ref()
    }

    /// Whether the next page must wait until this one is dropped.
    pub fn is_large(&self) -> bool {
        self.page.is_large()
    }
}

impl<'a> PageFetcher<'a> {
    /// `stop` ends waits.
    pub fn new(
        services: &'a Services,
        tenant: &'a Tenant,
        stop: &'a CancellationToken,
        clock: DatabaseClock,
        progress: TenantProgress,
    ) -> Self {
        Self {
            services,
            tenant,
            stop,
            clock,
            progress,
            incidents_seen: 0,
            api_calls: AtomicUsize::new(0),
            throttled: AtomicUsize::new(0),
        }
    }

    /// The API that is read.
    pub fn source(&self) -> Source {
        self.tenant.source()
    }

    /// The next page of the plan, accepted by it; `None` when the plan is drained.
    pub async fn next(&mut self, plan: &mut Plan) -> Result<Option<PlannedPage>, SyncError> {
        let Some((listing, page)) = self.fetch(plan).await? else { return Ok(None) };
        let elements = match listing {
            Listing::Alerts => raw::alert_elements(page.elements()),
            _ => raw::elements(self.source(), page.elements()),
        };
        // What a list of versions stands for is read and counted afterwards.
        let is_stored = listing != Listing::Versions;
        if matches!(listing, Listing::Incidents | Listing::Incident(_)) {
            self.incidents_seen += elements.len();
        }
        let summary = PageSummary {
            rows: elements.iter().map(ListedVersion::from).collect(),
            server_time: page.server_time,
            next_link: page.next_link.clone(),
            alerts_failure: page.alerts_failure.clone(),
            cut: page.cut,
        };
        let edge = plan.accept(&summary)?;
        // The API's clock may be ahead: what is updated before the database's clock reaches it is not read yet.
        let watermark = edge.map(|edge| page.asked_at.map_or(edge, |asked_at| edge.min(asked_at)));
        let stored = elements.iter().filter(|_| is_stored);
        let keys = stored.map(|element| (element.head, element.hash)).collect();
        drop(elements);
        let versions = if is_stored { Vec::new() } else { summary.rows };
        Ok(Some(PlannedPage { page, keys, versions, watermark, gap: plan.take_gap() }))
    }

    /// A page of whole incidents outside any plan.
    pub async fn sample(&self, request: &Request) -> Result<PlannedPage, SyncError> {
        let page = self.services.slots.release_while(self.page(request, false)).await?;
        let elements = raw::elements(self.source(), page.elements());
        let keys = elements.iter().map(|element| (element.head, element.hash)).collect();
        drop(elements);
        Ok(PlannedPage { page, keys, versions: Vec::new(), watermark: None, gap: None })
    }

    /// Replaces a request that is refused or cannot be served if the plan has another one.
    async fn fetch(&self, plan: &mut Plan) -> Result<Option<(Listing, Page)>, SyncError> {
        loop {
            let Some(request) = plan.request() else { return Ok(None) };
            match self.services.slots.release_while(self.page(&request, plan.is_searching())).await
            {
                Err(SyncError::Api { status: 400, .. }) if plan.refused() => {}
                Err(error) if may_be_left_out(&error, &request) && plan.failed(&error) => {}
                other => return other.map(|page| Some((request.listing, page))),
            }
        }
    }

    async fn page(&self, request: &Request, is_search: bool) -> Result<Page, SyncError> {
        let once = || async {
            match request.listing {
                Listing::Incident(id) => Box::pin(self.incident(id)).await,
                _ => self.ask_with_memory(Query::List(request)).await,
            }
        };
        self.with_new_token(is_search, once).await
    }

    /// If the API refuses the token, the request is repeated once with a new one.
    async fn with_new_token<F: Future<Output = Result<Page, SyncError>>>(
        &self,
        is_search: bool,
        once: impl Fn() -> F,
    ) -> Result<Page, SyncError> {
        match self.retried(is_search, &once).await {
            Err(error) if error.diagnosis().retry == Retry::WithNewToken => {
                let tokens = &self.services.tokens;
                let is_unauthorized = matches!(error, SyncError::Api { status: 401, .. });
                if is_unauthorized && tokens.is_rejected(self.tenant).await {
                    return Err(tokens.judge_new_token(self.tenant, error).await);
                }
                tokens.forget(self.tenant).await;
                match self.retried(is_search, &once).await {
                    Err(error) => Err(tokens.judge_new_token(self.tenant, error).await),
                    page => page,
                }
            }
            other => other,
        }
    }

    /// A search for the unservable range has its own retries.
    async fn retried<F: Future<Output = Result<Page, SyncError>>>(
        &self,
        is_search: bool,
        once: impl Fn() -> F,
    ) -> Result<Page, SyncError> {
        let attempt = || async {
            match once().await {
                Err(error) if is_search && error.smaller_page_may_help() => Ok(Err(error)),
                other => other.map(Ok),
            }
        };
        with_retries(self.services.retry_policy, self.stop, attempt).await.flatten()
    }

    /// A page too large to be in memory with others is requested again when no other such page is.
    async fn ask_with_memory(&self, query: Query<'_>) -> Result<Page, SyncError> {
        match Box::pin(self.ask(query, None)).await {
            Err(SyncError::BodyTooLarge { peer: Peer::Defender | Peer::Graph, .. }) => {
                let permit = self.services.api.large_page_permit().await;
                Box::pin(self.ask(query, Some(permit))).await
            }
            other => other,
        }
    }

    async fn ask(
        &self,
        query: Query<'_>,
        permit: Option<LargePagePermit>,
    ) -> Result<Page, SyncError> {
        failpoint::reach("token.wanted").await;
        let token = self.services.tokens.get(self.tenant).await?;
        failpoint::reach("token.held").await;
        self.services.await_turn(self.tenant, |wait| self.progress.waiting(wait)).await?;
        let asked_at = self.clock.now();
        let page = self.services.api.page(self.tenant, &token, query, permit);
        let answer = Box::pin(page).await;
        let answer = answer.and_then(|answer| self.timely(answer, asked_at));
        failpoint::reach("page.fetched").await;
        let is_throttled = matches!(answer, Err(SyncError::Api { status: 429, .. }));
        self.api_calls.fetch_add(1, Ordering::Relaxed);
        self.throttled.fetch_add(usize::from(is_throttled), Ordering::Relaxed);
        if let Err(error) = &answer {
            record_pause(&self.services.store, self.tenant, error).await;
        }
        answer
    }

    /// The windows of a run end at the API's clock, so a response with a wrong clock could move the watermark beyond what was
    /// read.
    fn timely(&self, mut answer: Page, asked_at: DateTime<Utc>) -> Result<Page, SyncError> {
        let server = answer.server_time;
        let database = self.clock.now();
        if (server - database).abs() > self.services.api.clock_skew_max() {
            return Err(SyncError::ClockSkew { server, database });
        }
        answer.asked_at = Some(asked_at);
        Ok(answer)
    }

    /// What was fetched so far.
    fn counts(&self) -> Counts {
        Counts {
            api_calls: self.api_calls.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
            incidents_seen: self.incidents_seen,
            ..Counts::default()
        }
    }

    /// Reports what was fetched, and `stored`.
    pub fn show(&self, stored: &Counts) {
        self.progress.counted(&self.counts().plus(stored));
    }

    /// Ends the display; returns what was fetched.
    pub fn finish(self) -> Counts {
        self.progress.finished();
        self.counts()
    }
}

impl Services {
    /// Waits until the tenant's quota allows a call; `waiting` is called before a wait.
    pub async fn await_turn(
        &self,
        tenant: &Tenant,
        waiting: impl Fn(std::time::Duration),
    ) -> Result<(), SyncError> {
        let wait =
            self.store.reserve_call(tenant.id, self.quotas.of(tenant.endpoints.source)).await?;
        if !wait.is_zero() {
            waiting(wait);
            metrics::counter!("incident_sync_quota_waits_total").increment(1);
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

/// An incident that is listed and cannot be found is one that the API cannot serve.
fn may_be_left_out(error: &SyncError, request: &Request) -> bool {
    let is_missing = matches!(error, SyncError::Api { status: 404, .. })
        && matches!(request.listing, Listing::Incident(_));
    is_missing || error.smaller_page_may_help()
}

/// Stores a pause that the API requested: it applies to every instance and across restarts.
pub async fn record_pause(store: &Store, tenant: &Tenant, error: &SyncError) {
    let Retry::After(pause) = error.diagnosis().retry else { return };
    metrics::counter!("incident_sync_throttled_seconds_total", "tenant" => tenant.name.clone())
        .increment(pause.as_secs());
    if let Err(error) = store.hold_calls(tenant.id, pause).await {
        tracing::warn!(tenant.id = %tenant.id, tenant.name = tenant.name, error = %error, "Cannot store a pause; only this process observes it");
    }
}
