//! Changes of incidents by analysts and by the service itself.

use chrono::{DateTime, Utc};

use super::json::Object;
use super::sample_data::{CONCLUSIONS, SEVERITIES, TAGS};
use super::store::{Form, Incident};
use super::tenant::Tenant;
use super::time;

impl Tenant {
    /// Adds an incident with the next id.
    pub(super) fn create(&mut self, now: DateTime<Utc>) -> i64 {
        let id = self.store.highest_id() + 1;
        let incident = self.author.incident(id, now, now);
        self.store.put(id, Incident::new(now, &incident.to_text()));
        id
    }

    /// Changes something visible. `false` if the incident is unknown or its text is not an object.
    pub(super) fn update(&mut self, id: i64, now: DateTime<Utc>) -> bool {
        let Some(mut incident) = self.open(id) else {
            return false;
        };
        let kind = if is_redirected(&incident) { 0 } else { self.author.random.below(7) };
        match kind {
            0 => append(&mut incident, "comments", self.author.comment(now)),
            1 => {
                let next = match incident.get::<String>("status").as_deref() {
                    Some("Active") => "InProgress",
                    _ => "Active",
                };
                incident.set("status", next);
                incident.set("assignedTo", self.author.analyst());
            }
            2 => append(
                &mut incident,
                "tags",
                format!("{} {}", self.author.random.pick(TAGS), self.author.random.hex(2)),
            ),
            3 => append(&mut incident, "alerts", self.author.alert(id, now)),
            4 => {
                let old = incident.get::<String>("severity").unwrap_or_default();
                let place = SEVERITIES.iter().position(|severity| *severity == old).unwrap_or(0);
                incident.set("severity", SEVERITIES[(place + 1) % SEVERITIES.len()]);
            }
            5 => self.change_devices(&mut incident, now),
            _ => self.work_on_alert(&mut incident, now),
        }
        if kind == 5 || kind == 6 {
            // Without alerts, nothing else of the incident changes visibly.
            append(&mut incident, "comments", self.author.comment(now));
        }
        self.save(id, incident, now);
        true
    }

    /// Updates an incident that is not merged; `None` if there is none.
    pub(super) fn update_random(&mut self, now: DateTime<Utc>) -> Option<i64> {
        let id = self.any_open_incident()?;
        self.update(id, now).then_some(id)
    }

    /// Closes the incident and its alerts, as an analyst does.
    pub(super) fn resolve(&mut self, id: i64, now: DateTime<Utc>) -> bool {
        let Some(mut incident) = self.open(id) else {
            return false;
        };
        let (classification, determination) = self.author.random.pick(CONCLUSIONS);
        let mut alerts = incident.objects("alerts");
        for alert in &mut alerts {
            alert.set("status", "Resolved");
            alert.set("classification", classification);
            alert.set("determination", determination);
            alert.set("resolvedTime", time::format(now));
            alert.set("lastUpdatedTime", time::format(now));
        }
        incident.set("status", "Resolved");
        incident.set("assignedTo", self.author.analyst());
        incident.set("classification", classification);
        incident.set("determination", determination);
        incident.set("alerts", alerts);
        self.save(id, incident, now);
        true
    }

    /// Changes an alert but not the `lastUpdateTime` of its incident, as in the documented sample.
    pub(super) fn touch_alert_only(&mut self, id: i64, now: DateTime<Utc>) -> bool {
        let (Some(mut incident), Some(old)) = (self.open(id), self.store.get(id)) else {
            return false;
        };
        let updated = old.updated;
        if incident.objects("alerts").is_empty() {
            return false;
        }
        self.work_on_alert(&mut incident, now);
        self.store.put(id, Incident::new(updated, &incident.to_text()));
        true
    }

    /// Makes one random change, of the kinds and frequencies of a real tenant.
    pub(super) fn live(&mut self, now: DateTime<Utc>) {
        let kind = self.author.random.below(100);
        let (Some(one), Some(other)) = (self.any_open_incident(), self.any_open_incident()) else {
            self.create(now);
            return;
        };
        match kind {
            0..40 => self.update(one, now),
            40..60 => self.create(now) > 0,
            60..70 => self.resolve(one, now),
            70..80 => self.merge(one, other, now),
            80..88 => match self.first_alert_id(one) {
                Some(alert_id) => self.move_alert(&alert_id, one, other, now),
                None => self.update(one, now),
            },
            _ => self.touch_alert_only(one, now),
        };
    }

    pub(super) fn open(&self, id: i64) -> Option<Object> {
        let incident = self.store.get(id)?;
        // The text of an incident that only Graph has is not changed.
        Object::parse(&incident.text).filter(|_| incident.form == Form::Defender)
    }

    /// Stores the new version with a time later than that of the old one.
    pub(super) fn save(&mut self, id: i64, mut incident: Object, now: DateTime<Utc>) {
        let mut updated = now;
        if let Some(old) = self.store.get(id) {
            updated = updated.max(old.updated + time::NEXT_VERSION);
        }
        incident.set("lastUpdateTime", time::format(updated));
        let mut alerts = incident.objects("alerts");
        alerts.iter_mut().for_each(|alert| self.show_devices_as_they_are(alert));
        if !alerts.is_empty() {
            incident.set("alerts", alerts);
        }
        self.store.put(id, Incident::new(updated, &incident.to_text()));
    }

    /// Investigates one of the alerts.
    fn work_on_alert(&mut self, incident: &mut Object, now: DateTime<Utc>) {
        let mut alerts = incident.objects("alerts");
        if alerts.is_empty() {
            return;
        }
        let place = self.author.random.index(alerts.len());
        let alert = &mut alerts[place];
        let next = match alert.get::<String>("status").as_deref() {
            Some("New") => "InProgress",
            Some("InProgress") => "Resolved",
            _ => "New",
        };
        alert.set("status", next);
        alert.set("resolvedTime", (next == "Resolved").then(|| time::format(now)));
        alert.set("lastUpdatedTime", time::format(now));
        self.show_devices_as_they_are(alert);
        incident.set("alerts", alerts);
    }

    /// Changes the state of every device of the incident, which counts as a change of its alerts.
    fn change_devices(&mut self, incident: &mut Object, now: DateTime<Utc>) {
        let mut alerts = incident.objects("alerts");
        for alert in &mut alerts {
            for device in alert.objects("devices") {
                let id: String = device.get("mdatpDeviceId").unwrap_or_default();
                self.author.change_device(&id);
            }
            alert.set("lastUpdatedTime", time::format(now));
        }
        if !alerts.is_empty() {
            incident.set("alerts", alerts);
        }
    }

    /// Ensures that no newer incident or alert has an older state of a device.
    fn show_devices_as_they_are(&self, alert: &mut Object) {
        let mut devices = alert.objects("devices");
        for device in &mut devices {
            let id = device.get::<String>("mdatpDeviceId");
            if let Some(current) = id.and_then(|id| self.author.current_device(&id)) {
                *device = current;
            }
        }
        if !devices.is_empty() {
            alert.set("devices", devices);
        }
    }

    fn first_alert_id(&self, id: i64) -> Option<String> {
        self.open(id)?.objects("alerts").first()?.get("alertId")
    }

    /// A random incident that is not merged and is readable; `None` after a few misses.
    fn any_open_incident(&mut self) -> Option<i64> {
        for _ in 0..64 {
            let place = self.author.random.index(self.store.len());
            let id = self.store.id_at(place)?;
            let incident = self.open(id);
            if incident.is_some_and(|incident| !is_redirected(&incident)) {
                return Some(id);
            }
        }
        None
    }
}

fn is_redirected(incident: &Object) -> bool {
    incident.get::<String>("status").as_deref() == Some("Redirected")
}

/// Appends to an array with elements of any kind.
pub(super) fn append(object: &mut Object, key: &str, element: impl serde::Serialize) {
    let mut array: Vec<Box<serde_json::value::RawValue>> = object.get(key).unwrap_or_default();
    array.push(serde_json::value::to_raw_value(&element).expect("plain data has a JSON form"));
    object.set(key, array);
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::tenant::TenantSpec;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn tenant(incidents: usize) -> Tenant {
        let spec = TenantSpec { incidents, ..TenantSpec::new(Uuid::from_u128(1), "Contoso") };
        Tenant::new(spec, now() - TimeDelta::hours(1))
    }

    fn value(tenant: &Tenant, id: i64) -> Value {
        serde_json::from_slice(&tenant.store.get(id).unwrap().text).unwrap()
    }

    #[test]
    fn update_changes_content_and_raises_update_time() {
        let mut tenant = tenant(3);
        for _ in 0..60 {
            let before = tenant.store.get(2).unwrap().clone();
            assert!(tenant.update(2, now()));
            let after = tenant.store.get(2).unwrap();
            assert!(after.updated > before.updated);
            let strip =
                |text: &[u8]| Object::parse(text).unwrap().with("lastUpdateTime", 0).to_text();
            assert_ne!(strip(&before.text), strip(&after.text));
        }
    }

    #[test]
    fn alert_can_change_without_its_incident() {
        let mut tenant = tenant(1);
        let before = value(&tenant, 1);
        assert!(tenant.touch_alert_only(1, now()));
        let after = value(&tenant, 1);
        assert_eq!(before["lastUpdateTime"], after["lastUpdateTime"]);
        assert_ne!(before["alerts"], after["alerts"]);
    }

    #[test]
    fn random_life_keeps_every_alert_in_one_incident() {
        let mut tenant = tenant(20);
        for _ in 0..300 {
            tenant.live(now());
        }
        let mut ids = Vec::new();
        for (id, _) in tenant.store.iter() {
            for alert in value(&tenant, id)["alerts"].as_array().unwrap() {
                assert_eq!(alert["incidentId"], id);
                ids.push(alert["alertId"].to_string());
            }
        }
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "no alert in two incidents");
        assert!(count > 20 * 3);
    }

    #[test]
    fn newest_incident_shows_current_device_state() {
        let mut tenant = tenant(20);
        for second in 0..200 {
            tenant.live(now() + TimeDelta::seconds(second));
        }
        let mut incidents: Vec<Value> =
            tenant.store.iter().map(|(id, _)| value(&tenant, id)).collect();
        incidents.sort_by_key(|incident| time::parse(incident["lastUpdateTime"].as_str().unwrap()));
        let mut newest = std::collections::HashMap::new();
        for device in incidents.iter().flat_map(devices) {
            newest.insert(device["mdatpDeviceId"].clone(), device["osBuild"].clone());
        }
        let mut changed = 0;
        for (id, build) in newest {
            let current = tenant.author.current_device(id.as_str().unwrap()).unwrap();
            assert_eq!(current.get::<Value>("osBuild"), Some(build.clone()));
            changed += usize::from(build != 20_348);
        }
        assert!(changed > 5);
    }

    fn devices(incident: &Value) -> Vec<Value> {
        let alerts = incident["alerts"].as_array().unwrap();
        alerts.iter().flat_map(|alert| alert["devices"].as_array().unwrap().clone()).collect()
    }
}
