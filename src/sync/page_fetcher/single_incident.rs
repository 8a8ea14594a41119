//! One incident of Graph: in one answer, or alone and its alerts page by page where that cannot be served.

use std::collections::HashSet;

use super::{PageFetcher, PlannedPage};
use crate::api::{BODY_BYTES_MAX, Page, Query};
use crate::error::SyncError;
use crate::incident::paging::{Listing, Request};
use crate::incident::raw;

/// An incident with more pages of alerts than this is a list without an end.
const ALERT_PAGES_MAX: usize = 1_000;

impl PageFetcher<'_> {
    /// One incident with its alerts. Where the API cannot serve both together, the incident is read alone.
    pub async fn whole_incident(&mut self, id: i64) -> Result<PlannedPage, SyncError> {
        let reading = async {
            let whole = || self.ask_with_memory(Query::WholeIncident(id));
            match self.with_new_token(true, whole).await {
                Err(error) if error.smaller_page_may_help() => {
                    self.with_new_token(false, || Box::pin(self.incident(id))).await
                }
                other => other,
            }
        };
        let page = self.services.slots.release_while(reading).await?;
        let elements = raw::elements(self.source(), page.elements());
        let keys = elements.iter().map(|element| (element.head, element.hash)).collect();
        drop(elements);
        self.incidents_seen += 1;
        Ok(PlannedPage { page, keys, versions: Vec::new(), watermark: None, gap: None })
    }

    /// Whether the API lists versions at this moment: what fails beside that is no outage.
    pub async fn serves_versions(&self) -> bool {
        let probe = Request { listing: Listing::Versions, ..Request::probe() };
        self.page(&probe, true).await.is_ok()
    }

    /// One incident that no page can show with its alerts: alone, then its alerts page by page. Alerts that cannot be read cost
    /// neither the incident nor the alerts before them.
    pub(super) async fn incident(&self, id: i64) -> Result<Page, SyncError> {
        let mut incident = Box::pin(self.ask(Query::Incident(id), None)).await?;
        let permit = self.services.api.large_page_permit().await;
        let endless =
            || SyncError::EndlessListing { window: format!("of the alerts of incident {id}") };
        let mut alerts: Vec<Page> = Vec::new();
        let mut followed = HashSet::new();
        let mut link: Option<String> = None;
        loop {
            let query = Query::IncidentAlerts { id, link: link.as_deref() };
            match Box::pin(self.ask(query, None)).await {
                Ok(page) => alerts.push(page),
                Err(error) if error.smaller_page_may_help() => {
                    incident.alerts_failure = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
            link = alerts.last().and_then(|page| page.next_link.clone());
            let Some(next) = &link else { break };
            // A link that was followed before leads round in a circle.
            if !followed.insert(next.clone()) || alerts.len() >= ALERT_PAGES_MAX {
                incident.alerts_failure = Some(endless());
                break;
            }
            // More than an incident may have; `with_alerts` reports that.
            if alerts.iter().map(Page::size).sum::<usize>() > BODY_BYTES_MAX {
                break;
            }
        }
        Ok(incident.with_alerts(&alerts, Some(permit)))
    }
}
