//! Methods of tests for the Graph API of a tenant.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::behaviour::GraphBehaviour;
use super::rendered::{Rendered, Variant};
use crate::json::Object;
use crate::source::Source;
use crate::store::Incident;
use crate::tenant::Poison;
use crate::time;
use crate::world::World;

impl World {
    /// Sets the deviations of the tenant's Graph API.
    pub fn set_graph(&self, tenant: Uuid, behaviour: GraphBehaviour) {
        self.with(tenant, |tenant| {
            tenant.spec.graph = behaviour;
            tenant.store.forget_renderings();
        });
    }

    /// Grants the permission of this API, as the tenant's admin does; issued tokens do not change.
    pub fn consent(&self, tenant: Uuid, source: Source) {
        self.with(tenant, |tenant| *tenant.consented.slot(source) = true);
    }

    /// Withdraws the permission of this API, as the tenant's admin does; issued tokens do not change.
    pub fn revoke(&self, tenant: Uuid, source: Source) {
        self.with(tenant, |tenant| *tenant.consented.slot(source) = false);
    }

    /// Makes every Graph response a 500 if it would contain the incident with its alerts, or the list of its alerts. The
    /// incident without alerts is served.
    pub fn poison_expansion(&self, tenant: Uuid, id: i64) {
        self.with(tenant, |tenant| tenant.poison.insert(id, Poison::Expansion));
    }

    /// Like `poison_expansion`, and every page of all alerts is a 500 if it would contain one of the incident's.
    pub fn poison_alerts(&self, tenant: Uuid, id: i64) {
        self.with(tenant, |tenant| tenant.poison.insert(id, Poison::Alerts));
    }

    /// Makes only one API serve the incident; `None` makes both serve it again.
    pub fn show_only(&self, tenant: Uuid, id: i64, source: Option<Source>) {
        self.with(tenant, |tenant| match source {
            Some(source) => tenant.shown_only_by.insert(id, source),
            None => tenant.shown_only_by.remove(&id),
        });
    }

    /// Adds or replaces an incident that only Graph serves, with this text, valid or not. A request without
    /// `$expand=alerts` gets it without `alerts`.
    pub fn add_graph_raw(&self, tenant: Uuid, id: i64, updated: DateTime<Utc>, raw: &str) {
        let incident = Incident::of_graph(updated, raw);
        self.with(tenant, |tenant| tenant.store.put(id, incident));
    }

    /// Adds the incidents of a documented list response of Graph, with unchanged texts.
    pub fn add_graph_sample(&self, tenant: Uuid, json: &str) {
        let list = Object::parse(json.as_bytes()).expect("a list answer is an object");
        for incident in list.objects("value") {
            let id: String = incident.get("id").expect("an incident of a sample has an id");
            let id = id.parse().expect("the id of an incident is a number");
            let updated: String =
                incident.get("lastUpdateDateTime").expect("an incident of a sample has a time");
            let updated = time::parse(&updated).expect("a time of a sample ends in Z");
            self.add_graph_raw(tenant, id, updated, &incident.to_text());
        }
    }

    /// Renders every incident and indexes every alert now, so that the first requests of a measurement are not slower.
    /// Needs about 17 KB of memory for each incident.
    pub fn prepare_graph(&self, tenant: Uuid) {
        self.with(tenant, |tenant| {
            let (id, behaviour) = (tenant.spec.id, tenant.spec.graph);
            let variant = Variant { tenant: id, behaviour, asks_for_new_members: true };
            for (_, incident) in tenant.store.iter() {
                Rendered::of(incident, &variant);
            }
            tenant.store.alert_index();
        });
    }

    /// The current version of every incident that Graph serves and that is JSON, by id, with its alerts and with the names
    /// of new enum members.
    pub fn graph_truth(&self, tenant: Uuid) -> Vec<Value> {
        self.with(tenant, |tenant| {
            let behaviour = GraphBehaviour { embedded_alerts_max: None, ..tenant.spec.graph };
            let variant = Variant { tenant: tenant.spec.id, behaviour, asks_for_new_members: true };
            let shown = tenant
                .store
                .iter()
                .filter(|(id, incident)| tenant.shows(Source::Graph, *id, incident));
            let texts =
                shown.map(|(id, incident)| Rendered::of(incident, &variant).expanded(id, None, ""));
            texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect()
        })
    }
}
