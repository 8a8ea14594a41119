//! All alerts of a tenant in the order of their last change.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::fields::{View, elements};
use super::filter::Range;
use crate::store::{Form, Incident};
use crate::time;

/// The alert's id by time, incident and position in it.
#[derive(Debug, Default)]
pub(crate) struct AlertIndex(BTreeMap<(DateTime<Utc>, i64, usize), String>);

/// The position of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) incident: i64,
    pub(super) alert: usize,
    pub(super) updated: DateTime<Utc>,
}

impl AlertIndex {
    pub(crate) fn add(&mut self, id: i64, incident: &Incident) {
        self.0.extend(entries(id, incident));
    }

    pub(crate) fn remove(&mut self, id: i64, incident: &Incident) {
        for (key, _) in entries(id, incident) {
            self.0.remove(&key);
        }
    }

    /// The alerts of a closed range of times, oldest first.
    pub(super) fn range(&self, (from, to): Range) -> impl DoubleEndedIterator<Item = Place> {
        let to = to.max(from);
        let keys = self.0.range((from, i64::MIN, 0)..=(to, i64::MAX, usize::MAX));
        keys.map(|((updated, incident, alert), _)| Place {
            incident: *incident,
            alert: *alert,
            updated: *updated,
        })
    }

    /// The alert with this id, in upper or lower case.
    pub(super) fn find(&self, alert_id: &str) -> Option<Place> {
        let found = self.0.iter().find(|(_, id)| id.eq_ignore_ascii_case(alert_id));
        found.map(|((updated, incident, alert), _)| Place {
            incident: *incident,
            alert: *alert,
            updated: *updated,
        })
    }
}

type Entry = ((DateTime<Utc>, i64, usize), String);

fn entries(id: i64, incident: &Incident) -> Vec<Entry> {
    let (alert_id, updated) = match incident.form {
        Form::Defender => ("alertId", "lastUpdatedTime"),
        Form::Graph => ("id", "lastUpdateDateTime"),
    };
    let object = std::str::from_utf8(&incident.text).ok().and_then(View::parse).unwrap_or_default();
    let alerts = object.raw("alerts").and_then(elements).unwrap_or_default();
    let objects = alerts.iter().enumerate().filter_map(|(place, alert)| {
        let alert = View::parse(alert.get())?;
        let time = alert.get::<String>(updated).and_then(|text| time::parse(&text));
        let key = (time.unwrap_or(incident.updated), id, place);
        Some((key, alert.get(alert_id).unwrap_or_default()))
    });
    objects.collect()
}
