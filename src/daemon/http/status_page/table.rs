//! The table of tenants. On a narrow screen each row is a card.

use maud::{Markup, html};

use super::{View, badge, grouped, name, since, words};
use crate::store::quota::{Quota, Quotas};
use crate::store::status::FleetTenant;
use crate::sync::problems::{Problem, cause, problems};
use crate::sync::tenant_state::{State, age, data_as_of, last_run, must_act};

const COLUMNS: [&str; 10] = [
    "Tenant",
    "State",
    "Problem",
    "Data as of",
    "Last run",
    "Open: high",
    "Medium",
    "Low",
    "Other",
    "Calls left this hour",
];
/// From here on, columns hold numbers.
const NUMBERS: usize = 5;

pub(super) fn of(shown: &[&FleetTenant], quotas: &Quotas, view: &View) -> Markup {
    html! {
        div.scroll role="region" aria-label="Tenants" tabindex="0" {
            table.tenants {
                caption { "Tenants" @if view.is_by_problem() { " by problem, worst first" } }
                thead {
                    tr {
                        @for (at, column) in COLUMNS.iter().enumerate() {
                            th.number[at >= NUMBERS] scope="col" { (column) }
                        }
                    }
                }
                @if view.is_by_problem() { (by_problem(shown, quotas)) }
                @else { tbody { @for tenant in shown { (row(tenant, quotas)) } } }
            }
        }
    }
}

/// One body for each problem, and one for the tenants without.
fn by_problem(shown: &[&FleetTenant], quotas: &Quotas) -> Markup {
    let found = problems(shown.iter().map(|tenant| &tenant.standing));
    let of = |id| shown.iter().find(|tenant| tenant.standing.tenant_id == id);
    let healthy = shown.iter().filter(|tenant| must_act(&tenant.standing).is_none());
    html! {
        @for problem in &found {
            tbody {
                (heading(problem))
                @for tenant in &problem.tenants {
                    @if let Some(tenant) = of(tenant.tenant_id) { (row(tenant, quotas)) }
                }
            }
        }
        tbody { @for tenant in healthy { (row(tenant, quotas)) } }
    }
}

fn heading(problem: &Problem<'_>) -> Markup {
    let count = problem.tenants.len();
    html! {
        tr.group {
            th scope="rowgroup" colspan=(COLUMNS.len()) {
                (problem.class) ", " (count) @if count == 1 { " tenant" } @else { " tenants" } ". "
                @if problem.recovers() { "No action is needed. " } @else { "Who must act: " (words(problem.owner)) ". " }
                span.advice { (problem.advice) }
            }
        }
    }
}

fn row(tenant: &FleetTenant, quotas: &Quotas) -> Markup {
    let standing = &tenant.standing;
    let quota: &Quota = quotas.of(standing.source());
    let problem = must_act(standing).map(|_| cause(standing));
    let open = [tenant.open_high, tenant.open_medium, tenant.open_low, tenant.open_other];
    html! {
        tr {
            th scope="row" { a href={ "/tenants/" (standing.tenant_id) } { (name(&standing.name)) } }
            td data-label=(COLUMNS[1]) { (badge(State::of(standing))) }
            td data-label=(COLUMNS[2]) { (problem.unwrap_or_default()) }
            td data-label=(COLUMNS[3]) { (since(standing.last_success_at, &data_as_of(standing))) }
            td data-label=(COLUMNS[4]) { (last_run(standing)) }
            @for (column, count) in COLUMNS[NUMBERS..].iter().zip(open) {
                td.number.muted[count == 0] data-label=(column) { (grouped(count)) }
            }
            td.number data-label=(COLUMNS[9]) {
                (grouped(quota.calls_left_in_hour(&tenant.line).into()))
                @if tenant.line.pause_seconds > 0.0 { ", paused for " (age(tenant.line.pause_seconds)) }
            }
        }
    }
}
