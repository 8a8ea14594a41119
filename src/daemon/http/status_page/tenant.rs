//! The page of one tenant.

use maud::{Markup, html};

use super::{Fleet, Snapshot, badge, chart, grouped, moment, name, trouble, words};
use crate::error::SyncError;
use crate::store::status::{FleetTenant, RecentRun};
use crate::sync::tenant_state::{State, age, data_as_of, must_act};

/// Rows of the table; the chart shows all runs.
const ROWS_MAX: usize = 50;

pub(super) fn unknown(title: &str, snapshot: &Snapshot) -> Markup {
    html! { (heading(title)) (trouble(snapshot)) }
}

pub(super) fn body(
    fleet: &Fleet,
    tenant: &FleetTenant,
    calls_left: u32,
    runs: Result<&[RecentRun], &SyncError>,
    snapshot: &Snapshot,
) -> Markup {
    html! {
        (heading(&tenant.standing.name))
        (trouble(snapshot))
        (facts(fleet, tenant, calls_left))
        @match runs {
            Ok(runs) => {
                section {
                    h2 { "Runs and freshness" }
                    (chart::plot(fleet.now, tenant.standing.freshness_seconds, runs))
                }
                (table(runs))
            }
            Err(error) => p { "Cannot read the runs: " (error) "." },
        }
    }
}

fn heading(title: &str) -> Markup {
    html! {
        header {
            p { a href="/" { "← All tenants" } }
            h1 { (name(title)) }
        }
    }
}

fn facts(fleet: &Fleet, tenant: &FleetTenant, calls_left: u32) -> Markup {
    let standing = &tenant.standing;
    let (who, what) = must_act(standing).unwrap_or(("nobody", "No action is needed."));
    html! {
        dl.facts {
            dt { "State" } dd { (badge(State::of(standing))) }
            dt { "Who must act" } dd { (words(who)) }
            dt { "What" } dd { (what) }
            dt { "Data as of" }
            dd {
                (data_as_of(standing))
                @if let Some(time) = standing.last_success_at { " (" (moment(time)) ")" }
            }
            @if standing.consecutive_failures.unwrap_or(0) > 0 {
                dt { "Consecutive failures" }
                dd {
                    (standing.consecutive_failures.unwrap_or(0))
                    @if let Some(time) = standing.next_attempt_at.filter(|time| *time > fleet.now) {
                        ", next attempt " (moment(time))
                    }
                }
            }
            dt { "Open incidents" }
            dd {
                "high " (grouped(tenant.open_high)) ", medium " (grouped(tenant.open_medium)) ", low "
                (grouped(tenant.open_low)) ", other " (grouped(tenant.open_other))
            }
            dt { "Calls left this hour" }
            dd {
                (grouped(calls_left.into()))
                @if tenant.line.pause_seconds > 0.0 {
                    ", paused by the API for " (age(tenant.line.pause_seconds))
                }
            }
            dt { "Source" } dd { (standing.source().as_str()) }
            dt { "In quarantine" } dd { (grouped(standing.rejected)) }
            dt { "Found late" }
            dd {
                (standing.found_late.unwrap_or(0))
                @if let Some(lateness) = standing.lateness_seconds.filter(|seconds| *seconds > 0) {
                    ", up to " (age(lateness.into())) " in the last two days"
                }
            }
            dt { "Gaps" } dd { (standing.gaps) }
            dt { "Tenant id" } dd { code { (standing.tenant_id) } }
            dt { "As of" } dd { (moment(fleet.now)) }
        }
    }
}

fn table(runs: &[RecentRun]) -> Markup {
    html! {
        div.scroll role="region" aria-label="Recent runs" tabindex="0" {
            table {
                caption { "The last " (runs.len().min(ROWS_MAX)) " runs of the day, newest first" }
                thead {
                    tr {
                        @for head in ["Started", "Kind", "Outcome"] { th scope="col" { (head) } }
                        @for head in ["Seconds", "Calls", "Throttled", "Seen", "Written", "Rejected"] {
                            th.number scope="col" { (head) }
                        }
                        th scope="col" { "Error" }
                    }
                }
                tbody { @for run in runs.iter().take(ROWS_MAX) { (row(run)) } }
            }
        }
    }
}

fn row(run: &RecentRun) -> Markup {
    let took = run.finished_at.signed_duration_since(run.started_at).as_seconds_f64();
    html! {
        tr {
            th scope="row" { (moment(run.started_at)) }
            td { (run.kind) }
            td { span.badge.(chart::class(&run.outcome)) { (run.outcome) } }
            td.number { (format!("{took:.1}")) }
            @for count in [run.api_calls, run.throttled, run.incidents_seen, run.incidents_written, run.rejected] {
                td.number.muted[count == 0] { (grouped(count.into())) }
            }
            td.what { (run.error_message.as_deref().unwrap_or_default()) }
        }
    }
}
