//! Moves of alerts between incidents: by the service's correlation, which merges incidents, or by an analyst.

use chrono::{DateTime, Utc};

use super::change::append;
use super::json::Object;
use super::tenant::Tenant;

impl Tenant {
    /// Moves the source's alerts and tags to the target. The source remains as an empty reference with its comments, as
    /// documented.
    pub(super) fn merge(&mut self, source: i64, target: i64, now: DateTime<Utc>) -> bool {
        let (Some(mut from), Some(mut to)) = (self.open(source), self.open(target)) else {
            return false;
        };
        if source == target {
            return false;
        }
        for mut alert in from.objects("alerts") {
            alert.set("incidentId", target);
            append(&mut to, "alerts", alert);
        }
        let mut tags = to.strings("tags");
        for tag in from.strings("tags") {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        to.set("tags", tags);
        from.set("alerts", [(); 0]);
        from.set("tags", ["Redirected"]);
        from.set("status", "Redirected");
        from.set("redirectIncidentId", target);
        self.save(source, from, now);
        self.save(target, to, now);
        true
    }

    /// Moves one alert to another incident, as an analyst does.
    pub(super) fn move_alert(
        &mut self,
        alert_id: &str,
        from: i64,
        to: i64,
        now: DateTime<Utc>,
    ) -> bool {
        let (Some(mut source), Some(mut target)) = (self.open(from), self.open(to)) else {
            return false;
        };
        let (mut moved, kept): (Vec<Object>, Vec<Object>) = source
            .objects("alerts")
            .into_iter()
            .partition(|alert| alert.get::<String>("alertId").as_deref() == Some(alert_id));
        if from == to || moved.is_empty() {
            return false;
        }
        source.set("alerts", kept);
        for alert in &mut moved {
            alert.set("incidentId", to);
            append(&mut target, "alerts", &*alert);
        }
        self.save(from, source, now);
        self.save(to, target, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::{Value, json};
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
    fn merge_moves_alerts_and_leaves_redirect() {
        let mut tenant = tenant(2);
        assert!(tenant.merge(1, 2, now()));
        let source = value(&tenant, 1);
        let target = value(&tenant, 2);
        assert_eq!(source["status"], "Redirected");
        assert_eq!(source["redirectIncidentId"], 2);
        assert_eq!(source["alerts"], json!([]));
        assert_eq!(source["tags"], json!(["Redirected"]));
        let alerts = target["alerts"].as_array().unwrap();
        assert_eq!(alerts.len(), 6);
        assert!(alerts.iter().all(|alert| alert["incidentId"] == 2));
        assert_eq!(target["lastUpdateTime"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn moved_alert_belongs_to_its_new_incident() {
        let mut tenant = tenant(2);
        let alert = value(&tenant, 1)["alerts"][1].clone();
        let alert_id = alert["alertId"].as_str().unwrap();
        assert!(tenant.move_alert(alert_id, 1, 2, now()));
        assert!(!tenant.move_alert(alert_id, 1, 2, now()), "it is gone");
        let source = value(&tenant, 1);
        let target = value(&tenant, 2);
        assert_eq!(source["alerts"].as_array().map(Vec::len), Some(2));
        assert_eq!(target["alerts"][3]["alertId"], alert_id);
        assert_eq!(target["alerts"][3]["incidentId"], 2);
    }
}
