//! What tests do to the Graph API of a tenant.

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
    /// Changes how the tenant's Graph API behaves.
    pub fn set_graph(&self, tenant: Uuid, behaviour: GraphBehaviour) {
        self.with(tenant, |tenant| {
            tenant.spec.graph = behaviour;
            tenant.store.forget_renderings();
        });
    }

    /// The tenant's admin consents to the permission of that API; tokens that exist do not change.
    pub fn consent(&self, tenant: Uuid, source: Source) {
        self.with(tenant, |tenant| *tenant.consented.slot(source) = true);
    }

    /// The tenant's admin withdraws the permission of that API; tokens that exist do not change.
    pub fn revoke(&self, tenant: Uuid, source: Source) {
        self.with(tenant, |tenant| *tenant.consented.slot(source) = false);
    }

    /// From now on Graph answers 500 where the incident would be shown with its alerts, or its alerts alone in the list
    /// of the incident's. Without them it is served.
    pub fn poison_expansion(&self, tenant: Uuid, id: i64) {
        self.with(tenant, |tenant| tenant.poison.insert(id, Poison::Expansion));
    }

    /// The same, and the list of all alerts answers 500 where it would show one of the incident's.
    pub fn poison_alerts(&self, tenant: Uuid, id: i64) {
        self.with(tenant, |tenant| tenant.poison.insert(id, Poison::Alerts));
    }

    /// One API alone shows the incident; `None` makes both show it again.
    pub fn show_only(&self, tenant: Uuid, id: i64, source: Option<Source>) {
        self.with(tenant, |tenant| match source {
            Some(source) => tenant.shown_only_by.insert(id, source),
            None => tenant.shown_only_by.remove(&id),
        });
    }

    /// Adds or replaces an incident that only Graph shows, and whose text it serves as it is. A request without
    /// `$expand=alerts` gets it without `alerts`.
    pub fn add_graph_raw(&self, tenant: Uuid, id: i64, updated: DateTime<Utc>, raw: &str) {
        let incident = Incident::of_graph(updated, raw);
        self.with(tenant, |tenant| tenant.store.put(id, incident));
    }

    /// Serves the incidents of a list answer of Graph, each text as it stands there.
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

    /// Renders every incident and indexes every alert now, so that a measurement does not find the first requests slow.
    /// Takes some 17 KB an incident.
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

    /// The newest version of every incident that Graph shows and that is JSON, by id, with its alerts and with the names
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
