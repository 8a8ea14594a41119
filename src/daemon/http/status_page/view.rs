//! What a browser asks of the page of all tenants: filters, order and refresh, all in its address.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use super::words;
use crate::entra::Tenant;
use crate::error::Owner;
use crate::store::status::FleetTenant;
use crate::sync::problems::{cause, worst_first};
use crate::sync::tenant_state::{State, must_act};

const SORTS: [(&str, &str); 4] =
    [("", "problem"), ("age", "age of the data"), ("open", "open incidents"), ("name", "name")];

/// An empty text is a filter that is not set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct View {
    state: String,
    owner: String,
    class: String,
    /// `key=value` of the configuration.
    label: String,
    /// Part of a name.
    q: String,
    sort: String,
    refresh: String,
}

impl View {
    /// Whether the browser reloads the page.
    pub fn is_repeated(&self) -> bool {
        self.refresh != "off"
    }

    /// Whether the tenants stand under their problems.
    pub(super) fn is_by_problem(&self) -> bool {
        !SORTS[1..].iter().any(|(sort, _)| *sort == self.sort)
    }

    /// The tenants that pass the filters, in order.
    pub(super) fn select<'a>(
        &self,
        tenants: &'a [FleetTenant],
        configured: &HashMap<Uuid, Arc<Tenant>>,
    ) -> Vec<&'a FleetTenant> {
        let labels = |tenant: &FleetTenant| {
            configured.get(&tenant.standing.tenant_id).map(|tenant| &tenant.labels)
        };
        let mut selected: Vec<&FleetTenant> = tenants
            .iter()
            .filter(|tenant| self.includes(tenant))
            .filter(|tenant| match self.label.split_once('=') {
                None => true,
                Some((key, value)) => labels(tenant)
                    .and_then(|labels| labels.get(key.trim()))
                    .is_some_and(|found| found == value.trim()),
            })
            .collect();
        selected.sort_by(|left, right| self.order(left, right));
        selected
    }

    fn includes(&self, tenant: &FleetTenant) -> bool {
        let standing = &tenant.standing;
        let problem = must_act(standing);
        let owner = problem.map_or("", |(owner, _)| owner);
        let class = problem.map_or("", |_| cause(standing));
        (self.state.is_empty() || State::of(standing).is_named(&self.state))
            && (self.owner.is_empty() || self.owner == owner)
            && (self.class.is_empty() || self.class == class)
            && standing.name.to_lowercase().contains(&self.q.trim().to_lowercase())
    }

    /// Tenants that are otherwise equal keep one order, by name and id.
    fn order(&self, left: &FleetTenant, right: &FleetTenant) -> Ordering {
        let age = |tenant: &FleetTenant| tenant.standing.freshness_seconds.unwrap_or(f64::INFINITY);
        let first = match self.sort.as_str() {
            "age" => age(right).total_cmp(&age(left)),
            "open" => right.open().cmp(&left.open()),
            "name" => left.standing.name.to_lowercase().cmp(&right.standing.name.to_lowercase()),
            _ => Ordering::Equal,
        };
        first.then_with(|| worst_first(&left.standing, &right.standing))
    }

    /// The address of this view with one value changed.
    pub(super) fn link(&self, key: &str, value: &str) -> String {
        let values = [
            ("state", &self.state),
            ("owner", &self.owner),
            ("class", &self.class),
            ("label", &self.label),
            ("q", &self.q),
            ("sort", &self.sort),
            ("refresh", &self.refresh),
        ];
        let mut query = Serializer::new(String::new());
        for (name, kept) in values {
            let value = if name == key { value } else { kept.as_str() };
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        match query.finish() {
            query if query.is_empty() => "/".to_owned(),
            query => format!("/?{query}"),
        }
    }

    pub(super) fn form(&self, shown: usize, all: usize) -> Markup {
        html! {
            form.filters method="get" action="/" role="search" {
                label { "Name " input type="search" name="q" value=(self.q); }
                label { "Label " input name="label" value=(self.label) placeholder="tier=gold"; }
                label { "State " (select("state", &self.state, State::NAMES.map(|name| (name, name)))) }
                label { "Who must act " (select("owner", &self.owner, Owner::NAMES.map(|name| (name, name)))) }
                @if !self.class.is_empty() { label { "Problem " input name="class" value=(self.class); } }
                @if !self.refresh.is_empty() { input type="hidden" name="refresh" value=(self.refresh); }
                label { "Sort by " (sorts(&self.sort)) }
                button type="submit" { "Show" }
                @if shown < all { " " (shown) " of " (all) " tenants. " a href="/" { "Show all" } }
            }
        }
    }
}

fn sorts(selected: &str) -> Markup {
    html! {
        select name="sort" {
            @for (value, text) in SORTS { option value=(value) selected[value == selected] { (text) } }
        }
    }
}

fn select<const N: usize>(name: &str, selected: &str, values: [(&str, &str); N]) -> Markup {
    html! {
        select name=(name) {
            option value="" { "all" }
            @for (value, text) in values {
                option value=(value) selected[value == selected] { (words(text)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::status::Standing;

    fn tenant(name: &str, age: f64, open: i64, class: Option<&str>) -> FleetTenant {
        let standing = Standing {
            name: name.to_owned(),
            enabled: true,
            consecutive_failures: Some(0),
            backfilled_at: Some(chrono::DateTime::UNIX_EPOCH),
            freshness_seconds: Some(age),
            error_class: class.map(str::to_owned),
            error_message: class.map(str::to_owned),
            who_must_act: class.map(|_| "operator".to_owned()),
            ..Standing::default()
        };
        FleetTenant { standing, open_high: open, ..FleetTenant::default() }
    }

    fn names(view: &View, fleet: &[FleetTenant]) -> String {
        let selected = view.select(fleet, &HashMap::new());
        selected.iter().map(|tenant| tenant.standing.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn tenants_are_filtered_and_sorted_as_asked() {
        let fleet = [
            tenant("Beta", 9.0, 1, None),
            tenant("alpha", 5.0, 7, None),
            tenant("gamma", 7.0, 3, Some("throttled")),
        ];
        let of = |change: fn(&mut View)| {
            let mut view = View::default();
            change(&mut view);
            names(&view, &fleet)
        };
        assert_eq!(of(|_| {}), "gamma Beta alpha", "worst first");
        assert_eq!(of(|view| view.sort = "age".into()), "Beta gamma alpha");
        assert_eq!(of(|view| view.sort = "open".into()), "alpha gamma Beta");
        assert_eq!(of(|view| view.sort = "name".into()), "alpha Beta gamma");
        assert_eq!(of(|view| view.state = "failing".into()), "gamma");
        assert_eq!(of(|view| view.owner = "operator".into()), "gamma");
        assert_eq!(of(|view| view.class = "throttled".into()), "gamma");
        assert_eq!(of(|view| view.q = "ET".into()), "Beta");
        assert_eq!(of(|view| view.label = "tier=gold".into()), "");
    }

    #[test]
    fn link_keeps_filters_and_escapes_them() {
        let view = View { q: "a&b".into(), sort: "age".into(), ..View::default() };
        assert_eq!(view.link("refresh", "off"), "/?q=a%26b&sort=age&refresh=off");
        assert_eq!(View::default().link("refresh", ""), "/");
    }
}
