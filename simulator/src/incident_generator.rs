//! Generates a tenant's incidents: the same ones for the same seed, about 10 KB each.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::evidence::{self, Scene, Shape};
use super::json::Object;
use super::random::{Random, mix};
use super::sample_data::{
    ANALYSTS, COMMENTS, CONCLUSIONS, INVESTIGATIONS, PROSE, STORIES, Story, TAGS,
};
use super::time;

const ALERTS_AN_INCIDENT: usize = 3;
const ENTITIES_AN_ALERT: usize = 4;
const DEVICES_A_TENANT: usize = 200;
/// The approximate length of an incident without its alerts.
const FRAME: usize = 650;

/// The generator of one tenant.
#[derive(Debug)]
pub(super) struct IncidentGenerator {
    tenant: Uuid,
    domain: String,
    pub(super) random: Random,
    /// The pool: id and version of each device.
    devices: Vec<(String, u32)>,
    alerts_written: u64,
}

impl IncidentGenerator {
    pub(super) fn new(tenant: Uuid, name: &str, seed: u64) -> Self {
        let label: String = name
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let mut random = Random::new(seed);
        let devices = (0..DEVICES_A_TENANT).map(|_| (random.hex(40), 0)).collect();
        Self {
            tenant,
            domain: format!("{}.example", label.trim_matches('-')),
            random,
            devices,
            alerts_written: 0,
        }
    }

    pub(super) fn incident(
        &mut self,
        id: i64,
        created: DateTime<Utc>,
        updated: DateTime<Utc>,
    ) -> Object {
        let first = self.random.pick_story();
        let mut alerts = Vec::with_capacity(ALERTS_AN_INCIDENT);
        for place in 0..ALERTS_AN_INCIDENT {
            let story = if place == 0 { first } else { self.random.pick_story() };
            // One alert of every other incident has the form of the documents.
            let shape = if (id.unsigned_abs() as usize + place).is_multiple_of(6) {
                Shape::Documented
            } else {
                Shape::Real
            };
            let begun = created + (updated - created) / 4 * i32::try_from(place).expect("small");
            // A device may change shortly after a new alert, whose time must not be in the future.
            let changed = if created == updated { updated } else { self.near(updated) };
            alerts.push(self.alert_of(story, shape, id, begun, changed));
        }
        self.lengthen(&mut alerts);
        self.frame(first, id, created, updated).with("alerts", alerts)
    }

    /// A new alert for an existing incident.
    pub(super) fn alert(&mut self, incident: i64, now: DateTime<Utc>) -> Object {
        let story = self.random.pick_story();
        self.alert_of(story, Shape::Real, incident, now - TimeDelta::minutes(2), now)
    }

    fn frame(
        &mut self,
        story: &Story,
        id: i64,
        created: DateTime<Utc>,
        updated: DateTime<Utc>,
    ) -> Object {
        let status = self.random.pick(&["Active", "Active", "InProgress", "Resolved", "Resolved"]);
        let assigned_to = (status != "Active").then(|| self.analyst());
        let (classification, determination) = match status {
            "Resolved" => self.random.pick(CONCLUSIONS),
            _ => ("Unknown", "NotAvailable"),
        };
        let tags: Vec<&str> =
            if self.random.chance(30) { vec![self.random.pick(TAGS)] } else { Vec::new() };
        let comments: Vec<Object> =
            if self.random.chance(25) { vec![self.comment(updated)] } else { Vec::new() };
        Object::default()
            .with("incidentId", id)
            .with(
                "incidentUri",
                format!("https://security.microsoft.com/incidents/{id}?tid={}", self.tenant),
            )
            .with("redirectIncidentId", json!(null))
            .with("incidentName", format!("{} on one endpoint", story.title))
            .with("createdTime", time::format(created))
            .with("lastUpdateTime", time::format(updated))
            .with("assignedTo", assigned_to)
            .with("classification", classification)
            .with("determination", determination)
            .with("status", status)
            .with("severity", story.severity)
            .with("tags", tags)
            .with("comments", comments)
    }

    fn alert_of(
        &mut self,
        story: &Story,
        shape: Shape,
        incident: i64,
        created: DateTime<Utc>,
        updated: DateTime<Utc>,
    ) -> Object {
        let alert_id = self.alert_id(story.prefix);
        let begun = created - TimeDelta::seconds(30 + self.random.below(7200).cast_signed());
        let place = self.random.index(DEVICES_A_TENANT);
        let scene =
            Scene { domain: &self.domain, device_id: &self.devices[place].0, at: created, shape };
        let turn = self.random.index(100);
        let entities: Vec<Object> = (turn..turn + ENTITIES_AN_ALERT)
            .map(|turn| evidence::entity(turn, &scene, &mut self.random))
            .collect();
        let mut alert = Object::default().with("alertId", &alert_id);
        if shape == Shape::Real {
            alert.set("providerAlertId", &alert_id[2..]);
            alert.set("detectorId", self.random.uuid());
        }
        alert
            .with("incidentId", incident)
            .with("serviceSource", story.service_source)
            .with("creationTime", time::format(created))
            .with("lastUpdatedTime", time::format(updated))
            .with("resolvedTime", json!(null))
            .with("firstActivity", time::format(begun))
            .with("lastActivity", time::format(created))
            .with("title", story.title)
            .with(
                "description",
                format!("{} was observed on a device of {}. ", story.title, self.domain),
            )
            .with("category", story.category)
            .with("status", "New")
            .with("severity", story.severity)
            .with("investigationId", json!(null))
            .with("investigationState", self.random.pick(INVESTIGATIONS))
            .with("classification", json!(null))
            .with("determination", json!(null))
            .with("detectionSource", story.detection_source)
            .with("assignedTo", json!(null))
            .with("actorName", story.actor)
            .with("threatFamilyName", story.family)
            .with("mitreTechniques", story.techniques)
            .with("devices", [self.device(place)])
            .with("entities", entities)
    }

    /// Ids depend on the number of alerts only: two tenants have the same ones, and only the tenant id distinguishes their
    /// alerts.
    fn alert_id(&mut self, prefix: &str) -> String {
        self.alerts_written += 1;
        let mut digits = Random::new(mix(self.alerts_written));
        match prefix {
            "da" | "ea" => {
                format!(
                    "{prefix}{}_{}",
                    637_000_000_000_000_000 + self.alerts_written,
                    digits.number() as u32
                )
            }
            _ => format!("{prefix}{}", digits.uuid()),
        }
    }

    /// Usually slightly before the incident's time, sometimes slightly after it, as in the documented sample.
    fn near(&mut self, updated: DateTime<Utc>) -> DateTime<Utc> {
        let ticks = self.random.below(9_000_000).cast_signed() - 1_500_000;
        updated - TimeDelta::nanoseconds(ticks * 100)
    }

    /// Pads the descriptions to an incident of 9 to 11 KB.
    fn lengthen(&mut self, alerts: &mut [Object]) {
        let target = 9_700 + self.random.index(900);
        let length: usize = alerts.iter().map(|alert| alert.to_text().len()).sum();
        let share = target.saturating_sub(length + FRAME) / alerts.len();
        for alert in alerts {
            let mut description: String = alert.get("description").unwrap_or_default();
            description.extend(PROSE.chars().cycle().take(share));
            alert.set("description", description);
        }
    }

    fn device(&self, place: usize) -> Object {
        let (id, version) = &self.devices[place];
        evidence::device(id, place, *version, &self.domain)
    }

    /// The current state of a device; `None` if it is not in the pool.
    pub(super) fn current_device(&self, id: &str) -> Option<Object> {
        let place = self.devices.iter().position(|(known, _)| known == id)?;
        Some(self.device(place))
    }

    /// Changes the state of the device.
    pub(super) fn change_device(&mut self, id: &str) {
        if let Some((_, version)) = self.devices.iter_mut().find(|(known, _)| known == id) {
            *version += 1;
        }
    }

    pub(super) fn analyst(&mut self) -> String {
        format!("{}@{}", self.random.pick(ANALYSTS), self.domain)
    }

    pub(super) fn comment(&mut self, at: DateTime<Utc>) -> Object {
        Object::default()
            .with("comment", self.random.pick(COMMENTS))
            .with("createdBy", self.analyst())
            .with("createdTime", time::format(at))
    }
}

impl Random {
    fn pick_story(&mut self) -> &'static Story {
        &STORIES[self.index(STORIES.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_incident_is_stable_and_about_ten_kb() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let write = || {
            let mut author = IncidentGenerator::new(Uuid::nil(), "Contoso Ltd.", 7);
            (1..=300).map(|id| author.incident(id, now, now).to_text()).collect::<Vec<_>>()
        };
        let texts = write();
        assert_eq!(texts, write());
        for text in texts {
            assert!((9_000..=11_000).contains(&text.len()), "{} bytes: {text}", text.len());
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["alerts"].as_array().map(Vec::len), Some(3));
        }
    }
}
