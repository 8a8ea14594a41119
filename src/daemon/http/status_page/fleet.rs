//! The page of all tenants, worst state first.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{Fleet, Snapshot, badge, grouped, moment, name, trouble, words};
use crate::entra::expiry;
use crate::store::quota::{Quota, Quotas};
use crate::store::status::FleetTenant;
use crate::sync::engine::SyncEngine;
use crate::sync::retirement::{RetirementNotice, Urgency};
use crate::sync::tenant_state::{State, age, data_as_of, last_run, must_act};

/// By state, then problems that need an action, then the oldest data.
pub(super) fn worst_first(left: &FleetTenant, right: &FleetTenant) -> Ordering {
    let severity = |tenant: &FleetTenant| {
        let recovers = must_act(&tenant.standing).is_none_or(|(who, _)| who == "nobody");
        (State::of(&tenant.standing), recovers)
    };
    let age = |tenant: &FleetTenant| tenant.standing.freshness_seconds.unwrap_or(f64::INFINITY);
    let by_age = age(right).total_cmp(&age(left));
    severity(left)
        .cmp(&severity(right))
        .then(by_age)
        .then_with(|| left.standing.name.cmp(&right.standing.name))
}

pub(super) fn body(engine: &SyncEngine, snapshot: &Snapshot, is_repeated: bool) -> Markup {
    let body = match &snapshot.fleet {
        Some(fleet) => html! {
            (retirement(engine, fleet))
            (notices(fleet))
            (summary(fleet))
            (table(fleet, &engine.services().quotas))
        },
        None => configured(engine),
    };
    html! {
        header {
            h1 { "Tenants" }
            p.muted {
                "incident-sync " (env!("CARGO_PKG_VERSION"))
                @if let Some(fleet) = &snapshot.fleet { " · as of " (moment(fleet.now)) }
                " · "
                @if is_repeated { "Auto-refresh: every minute (" a href="/" { "turn off" } ")" }
                @else { "Auto-refresh: off (" a href="/?refresh" { "turn on" } ")" }
            }
        }
        (trouble(snapshot))
        (body)
    }
}

/// The page before the first response of the database.
fn configured(engine: &SyncEngine) -> Markup {
    let settings = engine.settings();
    let mut names: Vec<&str> =
        settings.tenants.values().map(|tenant| tenant.name.as_str()).collect();
    names.sort_unstable();
    html! {
        h2 { "Configured tenants: " (names.len()) }
        ul.names { @for each in names { li { (name(each)) } } }
    }
}

/// The tenants on an API whose end is announced.
fn retirement(engine: &SyncEngine, fleet: &Fleet) -> Markup {
    let Some(notice) = RetirementNotice::of(engine.settings().tenants.values(), fleet.now) else {
        return html! {};
    };
    html! {
        div.notice.(if notice.urgency >= Urgency::Imminent { "bad" } else { "warn" }) role="alert" {
            p { strong { "An API in use is announced to end." } " " (notice.describe()) ". Who must act: operator." }
        }
    }
}

/// Credentials that expire soon; each affects many tenants.
fn notices(fleet: &Fleet) -> Markup {
    let now = expiry::now();
    html! {
        @for credential in &fleet.expiries {
            @if credential.stage(now).is_none() && credential.problem.is_some() {
                div.notice.warn role="alert" {
                    p { strong { "A credential cannot be re-read." } " " (credential.describe(now)) ". Who must act: operator." }
                }
            }
            @if let Some(stage) = credential.stage(now) {
                div.notice.(if stage == 0 { "bad" } else { "warn" }) role="alert" {
                    p { strong { @if stage == 0 { "A credential has expired." } @else { "A credential expires soon." } } " " (credential.describe(now)) ". Who must act: operator." }
                }
            }
        }
    }
}

fn summary(fleet: &Fleet) -> Markup {
    let tenants = &fleet.tenants;
    let mut states = BTreeMap::<State, usize>::new();
    let mut actors = BTreeMap::<&str, usize>::new();
    for tenant in tenants {
        *states.entry(State::of(&tenant.standing)).or_default() += 1;
        if let Some((who, _)) = must_act(&tenant.standing) {
            *actors.entry(who).or_default() += 1;
        }
    }
    let open = |count: fn(&FleetTenant) -> i64| tenants.iter().map(count).sum::<i64>();
    let enabled = tenants.iter().filter(|tenant| tenant.standing.enabled);
    let oldest = enabled.max_by(|a, b| {
        let age = |tenant: &FleetTenant| tenant.standing.freshness_seconds.unwrap_or(f64::INFINITY);
        age(a).total_cmp(&age(b))
    });
    html! {
        section aria-label="Summary" {
            dl.cards {
                div {
                    dt { "Tenants" }
                    dd.figure { (tenants.len()) }
                    dd { @for (state, count) in &states { span.nobreak { (badge(*state)) " " (count) } " " } }
                }
                div {
                    dt { "Who must act" }
                    dd.figure { (actors.iter().filter(|(who, _)| **who != "nobody").map(|(_, count)| count).sum::<usize>()) }
                    dd {
                        @for (at, (who, count)) in actors.iter().enumerate() {
                            @if at > 0 { ", " }
                            @if *who == "nobody" { "recovers automatically " } @else { (words(who)) " " }
                            (count)
                        }
                    }
                }
                div {
                    dt { "Oldest data" }
                    @if let Some(oldest) = oldest {
                        dd.figure { (data_as_of(&oldest.standing)) }
                        dd { (name(&oldest.standing.name)) }
                    } @else {
                        dd.figure { "–" }
                    }
                }
                div {
                    dt { "Open incidents" }
                    dd.figure { (grouped(open(|t| t.open_high + t.open_medium + t.open_low + t.open_other))) }
                    dd {
                        "high " (grouped(open(|t| t.open_high))) ", medium " (grouped(open(|t| t.open_medium)))
                        ", low " (grouped(open(|t| t.open_low))) ", other " (grouped(open(|t| t.open_other)))
                    }
                }
            }
        }
    }
}

fn table(fleet: &Fleet, quotas: &Quotas) -> Markup {
    html! {
        div.scroll role="region" aria-label="Tenants, worst state first" tabindex="0" {
            table {
                caption { "Tenants, worst state first" }
                thead {
                    tr {
                        th scope="col" rowspan="2" { "Tenant" }
                        th scope="col" rowspan="2" { "State" }
                        th scope="col" rowspan="2" { "Data as of" }
                        th scope="col" rowspan="2" { "Last run" }
                        th scope="colgroup" colspan="4" { "Open incidents" }
                        th scope="col" rowspan="2" { "Calls left this hour" }
                        th scope="col" rowspan="2" { "Who must act" }
                        th scope="col" rowspan="2" { "What" }
                    }
                    tr {
                        th.number scope="col" { "High" }
                        th.number scope="col" { "Medium" }
                        th.number scope="col" { "Low" }
                        th.number scope="col" { "Other" }
                    }
                }
                tbody { @for tenant in &fleet.tenants { (row(tenant, quotas.of(tenant.standing.source()))) } }
            }
        }
    }
}

fn row(tenant: &FleetTenant, quota: &Quota) -> Markup {
    let standing = &tenant.standing;
    let (who, what) = must_act(standing).unwrap_or_default();
    html! {
        tr {
            th scope="row" { a href={ "/tenants/" (standing.tenant_id) } { (name(&standing.name)) } }
            td { (badge(State::of(standing))) }
            td { (data_as_of(standing)) }
            td { (last_run(standing)) }
            @for count in [tenant.open_high, tenant.open_medium, tenant.open_low, tenant.open_other] {
                td.number.muted[count == 0] { (grouped(count)) }
            }
            td.number {
                (grouped(quota.calls_left_in_hour(&tenant.line).into()))
                @if tenant.line.pause_seconds > 0.0 { ", paused for " (age(tenant.line.pause_seconds)) }
            }
            td { (words(who)) }
            td.what { (what) }
        }
    }
}
