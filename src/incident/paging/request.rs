//! What a plan asks for, and what it learns from the page.

use chrono::{DateTime, Utc};

use crate::error::SyncError;
use crate::incident::raw::ListedVersion;
use crate::incident::window::Window;
use crate::tenant::Source;

/// The API's page maximum; more is answered with 400 (Defender: demisto/content#12434, Graph: wazuh/wazuh#27579). Of alerts
/// Graph lists up to [`ALERTS_OF_INSTANT`], but a page of so many would often be too large for ordinary memory.
pub(super) fn page_rows(source: Source, listing: Listing) -> usize {
    match (source, listing) {
        (Source::Defender, _) => 100,
        (Source::Graph, Listing::Alerts) => 200,
        (Source::Graph, _) => 50,
    }
}

/// Graph's page maximum for alerts: one instant with more alerts than an ordinary page is read in one request.
pub(super) const ALERTS_OF_INSTANT: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Whole incidents, their alerts included.
    Incidents,
    /// Ids and times alone, which the API can serve where it fails to expand alerts. Nothing of it is stored.
    Versions,
    /// Alerts of all incidents (`alerts_v2` of Graph), by their own time of change.
    Alerts,
    /// The incident of this id, whatever window, skip and top are: read without expansion, its alerts page by page.
    Incident(i64),
}

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub listing: Listing,
    /// The part of the list.
    pub window: Window,
    /// `$skip`.
    pub skip: usize,
    /// `$top`.
    pub top: usize,
    /// Whether the oldest update comes first: `$orderby=lastUpdateDateTime asc`.
    pub is_ascending: bool,
    /// The server's continuation, asked for instead of window and skip.
    pub link: Option<String>,
}

/// No incident was updated this late: the year 2100.
const NEVER: DateTime<Utc> = DateTime::from_timestamp_nanos(4_102_444_800_000_000_000);

impl Request {
    /// A request that the API answers with an empty page: the cheapest test of token, permission and service.
    pub fn probe() -> Self {
        let window = Window { from: Some(NEVER), to: None, status: None };
        Self { top: 1, ..Self::of(window, Listing::Incidents) }
    }

    /// A few whole incidents of a window, the oldest update first where the source can sort.
    pub fn sample(source: Source, window: Window, top: usize) -> Self {
        let is_ascending = source == Source::Graph && window.from.is_some();
        Self { top, is_ascending, ..Self::of(window, Listing::Incidents) }
    }

    pub(super) fn of(window: Window, listing: Listing) -> Self {
        Self { listing, window, skip: 0, top: 0, is_ascending: false, link: None }
    }
}

/// What a page held.
#[derive(Debug, Clone)]
pub struct PageSummary {
    /// Its rows in the order served.
    pub rows: Vec<ListedVersion>,
    /// The server's clock.
    pub server_time: DateTime<Utc>,
    /// The server's own continuation, already checked to lead to the configured host.
    pub next_link: Option<String>,
    /// Why the alerts of one incident could not be read although the incident was.
    pub alerts_failure: Option<SyncError>,
    /// Set if the page was longer than we take: its rows are the first ones of those asked for.
    pub cut: Option<Cut>,
}

/// Where a page was cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The first row that is not whole, as far as it could be read.
    pub next: Option<ListedVersion>,
    /// The bytes that were taken.
    pub bytes_max: usize,
}

impl PageSummary {
    /// Whether the times ascend and none is before `from`. Rows without a time say nothing.
    pub(super) fn is_ascending_from(&self, from: Option<DateTime<Utc>>) -> bool {
        let times = || self.rows.iter().filter_map(|row| row.updated);
        times().is_sorted() && times().next().is_none_or(|first| Some(first) >= from)
    }

    pub(super) fn newest(&self) -> Option<DateTime<Utc>> {
        self.rows.iter().filter_map(|row| row.updated).max()
    }
}
