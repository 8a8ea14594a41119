//! The status page: problems and their owners on one screen. No scripts, no external resources, and no customer data
//! except names.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use indicatif::HumanCount;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::entra::expiry::{self, CredentialExpiry};
use crate::error::{Owner, SyncError};
use crate::store::status::FleetTenant;
use crate::sync::engine::SyncEngine;
use crate::sync::status_document::StatusDocument;
use crate::sync::tenant_run::PAGES_PER_SLICE;
use crate::sync::tenant_state::{State, age};

mod chart;
mod fleet;
mod table;
mod tenant;
mod view;

pub use view::View;

const STYLE: &str = include_str!("style.css");
pub const FAVICON: &str = include_str!("favicon.svg");
/// Limits the queries for any number of browsers.
const SNAPSHOT_LIFETIME: Duration = Duration::from_secs(2);

/// A failure that recovers automatically has done so within this time.
const LASTING: Duration = Duration::from_secs(60);
/// SQLSTATE of the statement timeout.
const QUERY_CANCELED: &str = "57014";

/// Permits the style of the pages only.
pub static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
});

/// The pages. They show the last data while the database is unavailable.
#[derive(Debug)]
pub struct StatusPage {
    engine: Arc<SyncEngine>,
    last: Mutex<Option<Snapshot>>,
}

#[derive(Debug)]
pub struct RenderedPage {
    pub html: String,
    /// Whether the data is current; otherwise the database is unavailable.
    pub is_current: bool,
}

/// The last query of the database.
#[derive(Debug, Clone)]
struct Snapshot {
    at: Instant,
    /// Of the last successful query.
    fleet: Option<Arc<Fleet>>,
    /// Why the last query failed.
    failure: Option<SyncError>,
}

/// All tenants at one moment.
#[derive(Debug, Clone)]
struct Fleet {
    at: Instant,
    /// The time that was added to the ages.
    aged: Duration,
    /// The database's clock.
    now: DateTime<Utc>,
    tenants: Vec<FleetTenant>,
    expiries: Vec<CredentialExpiry>,
}

impl Fleet {
    /// Ages the data by the time since the last query: polls become overdue meanwhile.
    fn aged_to_now(&self) -> Self {
        let aged = self.at.elapsed();
        let more = (aged - self.aged).as_secs_f64();
        let mut fleet = Self { aged, ..self.clone() };
        for FleetTenant { standing, .. } in &mut fleet.tenants {
            for seconds in [&mut standing.freshness_seconds, &mut standing.overdue_seconds] {
                *seconds = seconds.map(|seconds| seconds + more);
            }
        }
        fleet
    }
}

impl StatusPage {
    pub fn new(engine: Arc<SyncEngine>) -> Self {
        Self { engine, last: Mutex::default() }
    }

    /// Queries the database, so that the last state is known when it is away, and counts the tenants by state.
    pub(crate) async fn refresh(&self) -> Result<BTreeMap<State, usize>, SyncError> {
        let Snapshot { fleet, failure, .. } = self.snapshot().await;
        match (fleet, failure) {
            (Some(fleet), None) => {
                let mut states: BTreeMap<State, usize> =
                    State::ALL.map(|state| (state, 0)).into_iter().collect();
                for tenant in &fleet.tenants {
                    *states.entry(State::of(&tenant.standing)).or_default() += 1;
                }
                Ok(states)
            }
            (_, failure) => Err(failure.unwrap_or(SyncError::Stopped)),
        }
    }

    /// The page of all tenants.
    pub async fn fleet(&self, view: &View) -> RenderedPage {
        let snapshot = self.snapshot().await;
        let body = fleet::body(&self.engine, &snapshot, view);
        shown("Tenants · incident-sync", view.is_repeated(), &body, snapshot.failure.is_none())
    }

    /// The same as JSON, and whether the data is current.
    pub async fn document(&self, view: &View) -> (Value, bool) {
        let snapshot = self.snapshot().await;
        let Some(fleet) = &snapshot.fleet else {
            let error = snapshot.failure.as_ref().map(ToString::to_string);
            return (json!({ "error": error }), false);
        };
        let settings = self.engine.settings();
        let shown = view.select(&fleet.tenants, &settings.tenants);
        let document = StatusDocument {
            now: fleet.now,
            fleet: fleet.tenants.iter().map(|tenant| &tenant.standing).collect(),
            shown: shown.into_iter().map(|tenant| (&tenant.standing, tenant)).collect(),
            configured: settings.tenants.values().collect(),
            expiries: &fleet.expiries,
        };
        (document.to_json(), snapshot.failure.is_none())
    }

    /// The page of one tenant; `None` for an unknown one.
    pub async fn tenant(&self, id: Uuid) -> Option<RenderedPage> {
        let snapshot = self.snapshot().await;
        let known = snapshot.fleet.as_ref().and_then(|fleet| {
            fleet
                .tenants
                .iter()
                .find(|tenant| tenant.standing.tenant_id == id)
                .map(|tenant| (fleet, tenant))
        });
        let Some((fleet, tenant)) = known else {
            let configured = self.engine.settings().tenants.get(&id).cloned();
            let name = configured.filter(|_| snapshot.failure.is_some())?.name.clone();
            return Some(shown(&name, false, &tenant::unknown(&name, &snapshot), false));
        };
        let runs = self.engine.services().store.recent_runs(id, PAGES_PER_SLICE).await;
        let quotas = self.engine.services().quotas;
        let left = quotas.of(tenant.standing.source()).calls_left_in_hour(&tenant.line);
        let body = tenant::body(fleet, tenant, left, runs.as_deref(), &snapshot);
        let is_current = snapshot.failure.is_none() && runs.is_ok();
        Some(shown(&format!("{} · incident-sync", tenant.standing.name), false, &body, is_current))
    }

    /// Runs one query at a time, and no more often after a failure.
    async fn snapshot(&self) -> Snapshot {
        let mut last = self.last.lock().await;
        if let Some(snapshot) = &*last
            && snapshot.at.elapsed() < SNAPSHOT_LIFETIME
        {
            return snapshot.clone();
        }
        let settings = self.engine.settings();
        let expiries = expiry::expiries(settings.tenants.values());
        let (expiries, fleet) = tokio::join!(expiries, self.engine.services().store.fleet());
        let at = Instant::now();
        let snapshot = match fleet {
            Ok((now, tenants)) => {
                let fleet = Fleet { at, aged: Duration::ZERO, now, tenants, expiries };
                Snapshot { at, fleet: Some(Arc::new(fleet)), failure: None }
            }
            Err(error) => {
                let known = last.take().and_then(|snapshot| snapshot.fleet);
                Snapshot {
                    at,
                    fleet: known.map(|fleet| Arc::new(fleet.aged_to_now())),
                    failure: Some(error),
                }
            }
        };
        *last = Some(snapshot.clone());
        snapshot
    }
}

/// The answer to an address that does not exist.
pub fn not_found() -> RenderedPage {
    let body = html! {
        header { h1 { "Not found" } }
        p { "There is no such page or tenant. " a href="/" { "All tenants" } }
    };
    shown("Not found · incident-sync", false, &body, true)
}

fn shown(title: &str, is_repeated: bool, body: &Markup, is_current: bool) -> RenderedPage {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if is_repeated { meta http-equiv="refresh" content="60"; }
                link rel="icon" href="/favicon.svg" type="image/svg+xml";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    RenderedPage { html: document.into_string(), is_current }
}

/// The notice while the database is unavailable.
fn trouble(snapshot: &Snapshot) -> Markup {
    let Some(error) = &snapshot.failure else { return html! {} };
    let diagnosis = error.diagnosis();
    let known = snapshot.fleet.as_ref().map(|fleet| fleet.at.elapsed());
    let is_lasting = known.is_some_and(|known| known >= LASTING);
    let who = if is_lasting && diagnosis.owner == Owner::Nobody {
        Owner::Operator
    } else {
        diagnosis.owner
    };
    let is_slow =
        matches!(error, SyncError::Database { sqlstate: Some(code), .. } if code == QUERY_CANCELED);
    html! {
        div.notice.bad role="alert" {
            p {
                strong {
                    @if is_slow { "The database is too slow to answer this page." }
                    @else { "The database does not answer." }
                }
                " " (diagnosis.advice) " (" (error) "). Who must act: " (words(who.as_str())) "."
            }
            @match known {
                Some(known) => p {
                    "Showing data from " (age(known.as_secs_f64())) " ago"
                    @if is_slow { "." } @else { "; no new data is being stored." }
                },
                None => p { "The state of the tenants is not available yet." },
            }
        }
    }
}

/// A state as a word with a symbol, so that no meaning depends on color.
fn badge(state: State) -> Markup {
    let (class, sign) = match state {
        State::Parked => ("bad", "✖"),
        State::Failing => ("bad", "!"),
        State::Missing => ("bad", "?"),
        State::NeverRun | State::Stale => ("bad", "◔"),
        State::Incomplete => ("warn", "◐"),
        State::FirstSync => ("info", "…"),
        State::Ok => ("good", "✓"),
        State::Disabled | State::Removed => ("idle", "–"),
    };
    html! { span.badge.(class) { span aria-hidden="true" { (sign) } " " (state.as_str()) } }
}

/// An identifier of the database as words.
fn words(word: &str) -> String {
    word.replace('_', " ")
}

/// Isolates the text direction, because the customer chooses the name.
fn name(name: &str) -> Markup {
    html! { bdi { (name) } }
}

/// In groups of three digits. Numbers are never negative here.
fn grouped(number: i64) -> HumanCount {
    HumanCount(number.unsigned_abs())
}

fn moment(time: DateTime<Utc>) -> Markup {
    let exact = time.to_rfc3339_opts(SecondsFormat::Secs, true);
    html! { time datetime=(exact) { (time.format("%Y-%m-%d %H:%M:%S UTC").to_string()) } }
}

/// An age, with the exact time for programs and as a hint.
fn since(time: Option<DateTime<Utc>>, text: &str) -> Markup {
    let Some(time) = time else { return html! { (text) } };
    let exact = time.to_rfc3339_opts(SecondsFormat::Secs, true);
    html! { time datetime=(exact) title=(exact) { (text) } }
}
