//! What identifies an entity beyond its columns: names, ids and addresses, but nothing that changes while it stays the same.

use serde_json::Value;

/// Properties that change while the entity stays the same, or describe it only. Nested evidence has them too.
const CHANGING: [&str; 35] = [
    "createdDateTime",
    "verdict",
    "remediationStatus",
    "remediationStatusDetails",
    "roles",
    "detailedRoles",
    "tags",
    // Mail
    "deliveryLocation",
    "lastModifiedDateTime",
    "threats",
    "threatDetectionMethods",
    "urlCount",
    "attachmentsCount",
    // Files and sessions
    "detectionStatus",
    "endUtcDateTime",
    // The state of a device
    "defenderAvStatus",
    "healthStatus",
    "importance",
    "ipInterfaces",
    "isAuthorized",
    "lastExternalIpAddress",
    "lastIpAddress",
    "loggedOnUsers",
    "onboardingStatus",
    "osBuild",
    "osPlatform",
    "rbacGroupId",
    "rbacGroupName",
    "resourceAccessEvents",
    "riskScore",
    "version",
    // Kubernetes
    "labels",
    "selector",
    "servicePorts",
    // Agents
    "instructions",
];

/// The identifying properties of `extra` in one order, so that equal entities have equal texts.
pub(super) fn identity(extra: &str) -> String {
    // Nested more deeply than any parser follows: then all of it identifies.
    let Ok(extra) = serde_json::from_str::<Value>(extra) else { return extra.to_owned() };
    let mut text = String::new();
    write(&extra, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(object) => {
            let mut own: Vec<_> = object
                .iter()
                .filter(|(key, _)| !key.contains('@') && !CHANGING.contains(&key.as_str()))
                .collect();
            own.sort_unstable_by_key(|(key, _)| key.as_str());
            text.push('{');
            for (key, value) in own {
                let mut inner = String::new();
                write(value, &mut inner);
                if !matches!(inner.as_str(), "null" | "[]" | "{}" | "\"\"") {
                    text.push_str(&Value::from(key.as_str()).to_string());
                    text.push(':');
                    text.push_str(&inner);
                    text.push(',');
                }
            }
            text.push('}');
        }
        Value::Array(list) => {
            text.push('[');
            for (at, value) in list.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write(value, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}
