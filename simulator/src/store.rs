//! One tenant's incidents in the service: the JSON text of each, and an index by time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::graph::{AlertIndex, Rendered};
use super::json::Object;
use super::random::{Random, mix};
use super::time;

/// The order of the list. Newest first according to the documents, no defined order according to a field report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By `lastUpdateTime`, newest first, as documented.
    NewestFirst,
    /// By `lastUpdateTime`, oldest first.
    OldestFirst,
    /// By `incidentId`.
    ById,
    /// By `incidentId`, highest first.
    ByIdDescending,
    /// By `createdTime`, oldest first.
    ByCreated,
    /// In an arbitrary but constant order (by a hash of the id).
    Hashed,
    /// In a different order for each request.
    Random,
}

/// The schema of an incident's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Defender's; Graph serves a conversion.
    Defender,
    /// Graph's; Defender does not serve it.
    Graph,
}

/// Properties of an incident, available without parsing its text.
#[derive(Debug, Clone)]
pub(super) struct Incident {
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    pub(super) status: String,
    pub(super) assigned_to: Option<String>,
    pub(super) text: Bytes,
    pub(super) form: Form,
    /// The text for Graph, without and with the names of new enum members; made at the first request.
    pub(super) rendered: [OnceLock<Arc<Rendered>>; 2],
}

impl Incident {
    /// Extracts the fields for filters from the text. Text that is not an object has the given time and no status.
    pub(super) fn new(updated: DateTime<Utc>, text: &str) -> Self {
        Self::in_form(Form::Defender, "createdTime", updated, text)
    }

    /// An incident that only Graph serves.
    pub(super) fn of_graph(updated: DateTime<Utc>, text: &str) -> Self {
        Self::in_form(Form::Graph, "createdDateTime", updated, text)
    }

    fn in_form(form: Form, created: &str, updated: DateTime<Utc>, text: &str) -> Self {
        let object = Object::parse(text.as_bytes()).unwrap_or_default();
        Self {
            created: object
                .get::<String>(created)
                .and_then(|text| time::parse(&text))
                .unwrap_or(updated),
            updated,
            status: object.get("status").unwrap_or_default(),
            assigned_to: object.get("assignedTo").unwrap_or_default(),
            // Copied, because a string keeps its capacity: twice the memory for fifty thousand incidents.
            text: Bytes::copy_from_slice(text.as_bytes()),
            form,
            rendered: Default::default(),
        }
    }
}

/// All incidents of a tenant.
#[derive(Debug, Default)]
pub(super) struct Store {
    incidents: BTreeMap<i64, Incident>,
    by_update: BTreeSet<(DateTime<Utc>, i64)>,
    /// Made at the first request for alerts.
    alerts: Option<AlertIndex>,
}

impl Store {
    /// Adds or replaces an incident.
    pub(super) fn put(&mut self, id: i64, incident: Incident) {
        if let Some(alerts) = &mut self.alerts {
            if let Some(old) = self.incidents.get(&id) {
                alerts.remove(id, old);
            }
            alerts.add(id, &incident);
        }
        self.by_update.insert((incident.updated, id));
        let updated = incident.updated;
        if let Some(old) = self.incidents.insert(id, incident)
            && old.updated != updated
        {
            self.by_update.remove(&(old.updated, id));
        }
    }

    pub(super) fn get(&self, id: i64) -> Option<&Incident> {
        self.incidents.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, &Incident)> {
        self.incidents.iter().map(|(id, incident)| (*id, incident))
    }

    pub(super) fn len(&self) -> usize {
        self.incidents.len()
    }

    /// The id at this index in the order of ids.
    pub(super) fn id_at(&self, place: usize) -> Option<i64> {
        self.incidents.keys().nth(place).copied()
    }

    pub(super) fn highest_id(&self) -> i64 {
        self.incidents.keys().next_back().copied().unwrap_or(0)
    }

    /// The index of all alerts; makes it if there is none.
    pub(super) fn alert_index(&mut self) -> &AlertIndex {
        let incidents = &self.incidents;
        self.alerts.get_or_insert_with(|| {
            let mut alerts = AlertIndex::default();
            incidents.iter().for_each(|(id, incident)| alerts.add(*id, incident));
            alerts
        })
    }

    /// Discards Graph's texts, which are made again at the next request.
    pub(super) fn forget_renderings(&mut self) {
        self.incidents.values_mut().for_each(|incident| incident.rendered = Default::default());
    }

    /// The incidents of one page, out of the admitted ones in the closed range of `lastUpdateTime`.
    pub(super) fn page(
        &self,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
        admits: impl Fn(i64, &Incident) -> bool,
        order: Order,
        random: &mut Random,
        skip: usize,
        top: usize,
    ) -> Vec<(i64, &Incident)> {
        if from > to {
            return Vec::new();
        }
        let matches = self
            .by_update
            .range((from, i64::MIN)..=(to, i64::MAX))
            .map(|(_, id)| (*id, &self.incidents[id]))
            .filter(|(id, incident)| admits(*id, incident));
        // The index has the order of time, so a page only costs the entries before its end.
        match order {
            Order::NewestFirst => matches.rev().skip(skip).take(top).collect(),
            Order::OldestFirst => matches.skip(skip).take(top).collect(),
            _ => {
                let mut rows: Vec<_> = matches.collect();
                arrange(&mut rows, order, random);
                rows.into_iter().skip(skip).take(top).collect()
            }
        }
    }
}

fn arrange(rows: &mut [(i64, &Incident)], order: Order, random: &mut Random) {
    match order {
        Order::NewestFirst | Order::OldestFirst => {}
        Order::ById => rows.sort_unstable_by_key(|(id, _)| *id),
        Order::ByIdDescending => rows.sort_unstable_by_key(|(id, _)| -id),
        Order::ByCreated => rows.sort_unstable_by_key(|(id, incident)| (incident.created, *id)),
        Order::Hashed => rows.sort_unstable_by_key(|(id, _)| (mix(id.cast_unsigned()), *id)),
        Order::Random => random.shuffle(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let mut store = Store::default();
        for id in 1..=50 {
            let updated = DateTime::from_timestamp(1_700_000_000 + (id * 7) % 50, 0).unwrap();
            store.put(id, Incident::new(updated, &id.to_string()));
        }
        store
    }

    fn ids(store: &Store, order: Order, random: &mut Random) -> Vec<i64> {
        let range = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        let pages = [0, 20, 40].map(|skip| {
            let page = store.page(range, |_, _| true, order, random, skip, 20);
            page.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        });
        pages.concat()
    }

    #[test]
    fn every_stable_order_lists_all_incidents() {
        let (store, mut random) = (store(), Random::new(1));
        for order in [
            Order::NewestFirst,
            Order::OldestFirst,
            Order::ById,
            Order::ByIdDescending,
            Order::ByCreated,
            Order::Hashed,
        ] {
            let mut seen = ids(&store, order, &mut random);
            assert_eq!(seen, ids(&store, order, &mut random), "{order:?} is stable");
            seen.sort_unstable();
            assert_eq!(seen, (1..=50).collect::<Vec<_>>(), "{order:?} is complete");
        }
        let mut first = || ids(&store, Order::Random, &mut random);
        assert_ne!(first(), first());
    }

    #[test]
    fn changed_incident_moves_in_the_index() {
        let mut store = store();
        let updated = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        store.put(3, Incident::new(updated, "3"));
        let newest = ids(&store, Order::NewestFirst, &mut Random::new(1));
        assert_eq!((newest[0], newest.len()), (3, 50));
    }
}
