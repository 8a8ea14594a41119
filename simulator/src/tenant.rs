//! One customer tenant of the service.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::consent::Admin;
use super::graph::GraphBehaviour;
use super::incident_generator::IncidentGenerator;
use super::quota::Quota;
use super::random::seed_of;
use super::source::{Roles, Source};
use super::store::{Form, Incident, Order, Store};
use super::time;
use super::traffic::Traffic;

/// The description of a tenant.
#[derive(Debug, Clone)]
pub struct TenantSpec {
    pub id: Uuid,
    /// Its users and devices are in `{name}.example`.
    pub name: String,
    /// The same seed gives the same incidents.
    pub seed: u64,
    /// The number of initial incidents, numbered from 1.
    pub incidents: usize,
    /// The days before now that they are spread over; with 0 all have the same time.
    pub spread_days: u32,
    /// The order of the list.
    pub order: Order,
    /// The limit of calls in a sliding minute.
    pub calls_per_minute: u32,
    /// The limit of calls in a sliding hour.
    pub calls_per_hour: u32,
    /// The limit of Graph calls in a sliding minute, counted apart from Defender's.
    pub graph_calls_per_minute: u32,
    /// The lifetime of a token.
    pub token_lifetime_s: u64,
    /// Its faults.
    pub behaviour: Behaviour,
    /// The deviations of its Graph API.
    pub graph: GraphBehaviour,
}

impl TenantSpec {
    /// A healthy, empty tenant with the documented quota.
    pub fn new(id: Uuid, name: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            seed: seed_of(id),
            incidents: 0,
            spread_days: 170,
            order: Order::NewestFirst,
            calls_per_minute: 50,
            calls_per_hour: 1500,
            graph_calls_per_minute: 150,
            token_lifetime_s: 3599,
            behaviour: Behaviour::default(),
            graph: GraphBehaviour::default(),
        }
    }
}

/// Permanent faults of a tenant. The default has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// The consent is missing: Entra answers AADSTS700016.
    pub consent_missing: bool,
    /// The behaviour of its admin at the consent page.
    pub admin: Admin,
    /// Tokens have this tenant in `tid`.
    pub wrong_tid: Option<Uuid>,
    /// Tokens have no `roles`, and the API answers 403.
    pub no_roles: bool,
    /// Tokens are not JWTs.
    pub opaque_token: bool,
    /// The API never answers.
    pub hang: bool,
    /// The list ignores `$skip`.
    pub ignores_skip: bool,
}

/// The responses that fail because of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Poison {
    /// All that would contain it.
    Everything,
    /// Those of Graph that would contain it with its alerts, or only its alerts.
    Expansion,
    /// The same, and Graph's list of all alerts if it would contain one of these.
    Alerts,
}

/// The state of a tenant.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) spec: TenantSpec,
    pub(super) author: IncidentGenerator,
    pub(super) store: Store,
    pub(super) traffic: Traffic,
    /// Random updates after each page.
    pub(super) churn: usize,
    /// Incidents for which the service fails.
    pub(super) poison: BTreeMap<i64, Poison>,
    /// Incidents that only one API lists.
    pub(super) shown_only_by: BTreeMap<i64, Source>,
    /// Incidents that no list shows before this time.
    pub(super) listed_from: BTreeMap<i64, DateTime<Utc>>,
    /// The permissions that its admin consented to.
    pub(super) consented: Roles,
}

impl Tenant {
    pub(super) fn new(spec: TenantSpec, now: DateTime<Utc>) -> Self {
        let mut tenant = Self {
            author: IncidentGenerator::new(spec.id, &spec.name, spec.seed),
            store: Store::default(),
            traffic: Traffic::new(
                Quota::new(spec.calls_per_minute, spec.calls_per_hour),
                Quota::new(spec.graph_calls_per_minute, u32::MAX),
            ),
            churn: 0,
            poison: BTreeMap::new(),
            shown_only_by: BTreeMap::new(),
            listed_from: BTreeMap::new(),
            consented: Roles::BOTH,
            spec,
        };
        tenant.seed(now);
        tenant
    }

    /// Whether this API lists the incident.
    pub(super) fn shows(&self, source: Source, id: i64, incident: &Incident) -> bool {
        (source == Source::Graph || incident.form == Form::Defender)
            && self.shown_only_by.get(&id).is_none_or(|only| *only == source)
            && !self.listed_from.contains_key(&id)
    }

    /// Ids increase with the time of creation, as in the service. Most incidents change for up to three days.
    fn seed(&mut self, now: DateTime<Utc>) {
        let count = i64::try_from(self.spec.incidents).expect("a count of incidents");
        let step = TimeDelta::days(self.spec.spread_days.into())
            / i32::try_from(count.max(1)).expect("a sane count");
        for id in 1..=count {
            let begin = now - TimeDelta::days(self.spec.spread_days.into())
                + step * i32::try_from(id - 1).expect("a sane count");
            let created = time::to_ticks(begin + self.part_of(step));
            let updated =
                time::to_ticks(created + self.part_of((now - created).min(TimeDelta::days(3))));
            let incident = self.author.incident(id, created, updated);
            self.store.put(id, Incident::new(updated, &incident.to_text()));
        }
    }

    fn part_of(&mut self, span: TimeDelta) -> TimeDelta {
        let micros = span.num_microseconds().unwrap_or(0).max(0).cast_unsigned();
        let micros = self.author.random.below(micros).cast_signed();
        TimeDelta::microseconds(micros) + TimeDelta::nanoseconds(100 * (micros % 10))
    }
}
