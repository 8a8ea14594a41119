//! The page of all tenants: problems first, then the tenants.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{Fleet, Snapshot, View, badge, grouped, moment, name, table, trouble, words};
use crate::entra::expiry;
use crate::store::status::FleetTenant;
use crate::sync::engine::SyncEngine;
use crate::sync::problems::{Problem, problems};
use crate::sync::retirement::{RetirementNotice, Urgency};
use crate::sync::tenant_state::{State, data_as_of, must_act};

/// A cause that affects this many tenants is an alarm of its own above the table.
const SHARED: usize = 3;

pub(super) fn body(engine: &SyncEngine, snapshot: &Snapshot, view: &View) -> Markup {
    let body = match &snapshot.fleet {
        Some(fleet) => {
            let settings = engine.settings();
            let shown = view.select(&fleet.tenants, &settings.tenants);
            html! {
                (retirement(engine, fleet))
                (notices(fleet))
                (shared_causes(fleet))
                (summary(fleet))
                (view.form(shown.len(), fleet.tenants.len()))
                (table::of(&shown, &engine.services().quotas, view))
            }
        }
        None => configured(engine),
    };
    html! {
        header {
            h1 { "Tenants" }
            p.muted {
                "incident-sync " (env!("CARGO_PKG_VERSION"))
                @if let Some(fleet) = &snapshot.fleet { " · as of " (moment(fleet.now)) }
                " · "
                @if view.is_repeated() { "Auto-refresh: every minute (" a href=(view.link("refresh", "off")) { "turn off" } ")" }
                @else { "Auto-refresh: off (" a href=(view.link("refresh", "")) { "turn on" } ")" }
            }
        }
        (trouble(snapshot))
        (body)
    }
}

/// The causes that many tenants share, each once.
fn shared_causes(fleet: &Fleet) -> Markup {
    let found = problems(fleet.tenants.iter().map(|tenant| &tenant.standing));
    let is_shared = |problem: &&Problem<'_>| {
        problem.tenants.len() >= SHARED && !problem.recovers() && !problem.is_of_customers()
    };
    html! {
        @for problem in found.iter().filter(is_shared) {
            div.notice.bad role="alert" {
                p {
                    strong { (problem.tenants.len()) " tenants are affected by one cause." } " " (problem.advice)
                    ". Who must act: " (words(problem.owner)) ". "
                    a href={ "/?class=" (problem.class) } { "Show these tenants" }
                }
            }
        }
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
                    dd.figure { (grouped(open(FleetTenant::open))) }
                    dd {
                        "high " (grouped(open(|t| t.open_high))) ", medium " (grouped(open(|t| t.open_medium)))
                        ", low " (grouped(open(|t| t.open_low))) ", other " (grouped(open(|t| t.open_other)))
                    }
                }
            }
        }
    }
}
