//! Incidents of a page before they are decoded.

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::incident::decode::key::{self, IncidentKey};
use crate::incident::hash::{self, Hash};
use crate::incident::text::storable::storable;
use crate::tenant::Source;

/// One incident of a page before it is decoded.
#[derive(Debug)]
pub struct RawIncident<'a> {
    /// Its id and version, as far as they can be read.
    pub head: IncidentKey,
    /// Hash of the text as served.
    pub hash: Hash,
    /// The text, as Postgres can store it.
    pub text: Cow<'a, str>,
}

impl<'a> RawIncident<'a> {
    /// An element that was already looked at, from its text as served.
    pub fn with_key(raw: &'a str, head: IncidentKey, hash: Hash) -> Self {
        Self { head, hash, text: storable(raw) }
    }
}

/// Looks at each incident of a page just enough to know which one and which version it is.
pub fn elements<'a>(
    source: Source,
    incidents: impl Iterator<Item = &'a str>,
) -> Vec<RawIncident<'a>> {
    let element = |raw: &'a str| {
        let text = storable(raw);
        RawIncident { head: key::head(source, &text), hash: hash::content_hash(raw), text }
    };
    incidents.map(element).collect()
}

/// The same for a list of Graph's alerts: a number made of its id stands for each, because the ids are texts.
pub fn alert_elements<'a>(alerts: impl Iterator<Item = &'a str>) -> Vec<RawIncident<'a>> {
    let element = |raw: &'a str| {
        let text = storable(raw);
        let key = key::alert(&text);
        let incident_id = key.alert_id.map(|id| number_of(&hash::content_hash(&id)) & i64::MAX);
        let head = IncidentKey { incident_id, last_update_time: key.updated };
        RawIncident { head, hash: hash::content_hash(raw), text }
    };
    alerts.map(element).collect()
}

fn number_of(hash: &Hash) -> i64 {
    i64::from_le_bytes(std::array::from_fn(|at| hash[at]))
}

/// An incident version that a page lists: all that a reading plan needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedVersion {
    /// The incident id, or a negative number made of the hash for an element without an id.
    pub id: i64,
    /// `lastUpdateTime`, if it could be read.
    pub updated: Option<DateTime<Utc>>,
}

impl From<&RawIncident<'_>> for ListedVersion {
    fn from(element: &RawIncident<'_>) -> Self {
        let hash_id = || number_of(&element.hash) | i64::MIN;
        Self {
            id: element.head.incident_id.unwrap_or_else(hash_id),
            updated: element.head.last_update_time,
        }
    }
}

/// Leaves the newest version of each incident that a page shows twice; of equals the last one served.
pub fn newest_of_each<'a>(elements: Vec<RawIncident<'a>>) -> Vec<RawIncident<'a>> {
    let mut newest: HashMap<Result<i64, Hash>, RawIncident<'a>> =
        HashMap::with_capacity(elements.len());
    for element in elements {
        let key = element.head.incident_id.ok_or(element.hash);
        let is_older = newest
            .get(&key)
            .is_some_and(|held| held.head.last_update_time > element.head.last_update_time);
        if !is_older {
            newest.insert(key, element);
        }
    }
    newest.into_values().collect()
}
