//! Evidence of types that the Defender API lacks.

use serde_json::{Value, json};

use super::fields::text;
use super::rendered::Variant;

/// Two of the types in turn, for the configured share of incidents; nothing for the others.
pub(super) fn of(variant: &Variant, incident_id: &str, created: Option<&str>) -> Vec<String> {
    let seed = variant.seed(incident_id);
    if seed % 100 >= u64::from(variant.behaviour.new_evidence_percent) {
        return Vec::new();
    }
    let created: Value =
        created.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let turn = seed / 100;
    [turn, turn + 1].into_iter().map(|turn| text(evidence(turn % 5, seed, &created))).collect()
}

fn evidence(kind: u64, seed: u64, created: &Value) -> Value {
    match kind {
        0 => with_type(
            "cloudApplication",
            created,
            json!({
                "appId": 11_161 + seed % 9, "displayName": "Microsoft 365", "instanceId": 0,
                "instanceName": "Microsoft 365", "saasAppId": 11_161, "stream": null,
            }),
        ),
        1 => with_type(
            "oauthApplication",
            created,
            json!({
                "appId": format!("{seed:016x}"), "displayName": "Mail migration helper",
                "objectId": format!("{:016x}", !seed), "publisher": "Unverified publisher",
            }),
        ),
        2 => with_type(
            "azureResource",
            created,
            json!({
                "resourceId": format!("/subscriptions/{seed:016x}/resourceGroups/web/providers/Microsoft.Compute/virtualMachines/vm-1"),
                "resourceName": "vm-1", "resourceType": "Virtual Machine",
            }),
        ),
        3 => with_type(
            "malware",
            created,
            json!({
                "name": "Backdoor:Win32/Example", "category": "Backdoor", "files": [], "processes": [],
            }),
        ),
        _ => pod(seed, created),
    }
}

/// Evidence within evidence.
fn pod(seed: u64, created: &Value) -> Value {
    let namespace = with_base(
        created,
        json!({
            "name": "payments", "labels": {}, "cluster": with_base(created, json!({
                "name": "aks-prod", "platform": "aks", "distribution": null, "version": "1.33",
                "cloudResource": null,
            })),
        }),
    );
    with_type(
        "kubernetesPod",
        created,
        json!({
            "name": format!("checkout-{:08x}", seed % 0xffff_ffff), "labels": {"app": "checkout"},
            "namespace": namespace, "containers": [], "initContainers": [], "ephemeralContainers": [],
            "controller": null, "serviceAccount": null,
            "podIp": with_base(created, json!({
                "ipAddress": format!("10.0.0.{}", seed % 256), "countryLetterCode": null,
                "location": null, "stream": null,
            })),
        }),
    )
}

fn with_type(name: &str, created: &Value, properties: Value) -> Value {
    let mut evidence = with_base(created, properties);
    evidence["@odata.type"] = format!("#microsoft.graph.security.{name}Evidence").into();
    evidence
}

fn with_base(created: &Value, mut properties: Value) -> Value {
    properties["createdDateTime"] = created.clone();
    properties["verdict"] = "suspicious".into();
    properties["remediationStatus"] = "none".into();
    properties["remediationStatusDetails"] = Value::Null;
    for list in ["roles", "detailedRoles", "tags"] {
        properties[list] = json!([]);
    }
    properties
}
