//! Graph's documents under the Defender API's names and values, converted without the product's decoder. What Graph alone
//! has keeps its name.

use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// A property and the name under which it is expected.
type Names = &'static [(&'static str, &'static str)];

const INCIDENT: Names = &[
    ("id", "incidentId"),
    ("incidentWebUrl", "incidentUri"),
    ("redirectIncidentId", "redirectIncidentId"),
    ("displayName", "incidentName"),
    ("createdDateTime", "createdTime"),
    ("lastUpdateDateTime", "lastUpdateTime"),
    ("assignedTo", "assignedTo"),
    ("classification", "classification"),
    ("determination", "determination"),
    ("status", "status"),
    ("severity", "severity"),
    ("tags", "tags"),
    ("customTags", "tags"),
    ("description", "description"),
    ("summary", "summary"),
    ("resolvingComment", "resolvingComment"),
    ("lastModifiedBy", "lastModifiedBy"),
    ("priorityScore", "priorityScore"),
    ("systemTags", "systemTags"),
];
const COMMENT: Names = &[
    ("comment", "comment"),
    ("createdBy", "createdBy"),
    ("createdByDisplayName", "createdBy"),
    ("createdTime", "createdTime"),
    ("createdDateTime", "createdTime"),
];
const ALERT: Names = &[
    ("id", "alertId"),
    ("providerAlertId", "providerAlertId"),
    ("serviceSource", "serviceSource"),
    ("detectionSource", "detectionSource"),
    ("detectorId", "detectorId"),
    ("createdDateTime", "creationTime"),
    ("lastUpdateDateTime", "lastUpdatedTime"),
    ("resolvedDateTime", "resolvedTime"),
    ("firstActivityDateTime", "firstActivity"),
    ("lastActivityDateTime", "lastActivity"),
    ("title", "title"),
    ("description", "description"),
    ("category", "category"),
    ("status", "status"),
    ("severity", "severity"),
    ("investigationState", "investigationState"),
    ("classification", "classification"),
    ("determination", "determination"),
    ("assignedTo", "assignedTo"),
    ("actorDisplayName", "actorName"),
    ("threatFamilyName", "threatFamilyName"),
    ("mitreTechniques", "mitreTechniques"),
    ("alertWebUrl", "alertWebUrl"),
    ("recommendedActions", "recommendedActions"),
    ("productName", "productName"),
    ("alertPolicyId", "alertPolicyId"),
    ("categories", "categories"),
    ("systemTags", "systemTags"),
];
const EVIDENCE: Names = &[
    ("createdDateTime", "evidenceCreationTime"),
    ("verdict", "verdict"),
    ("remediationStatus", "remediationStatus"),
];
const ACCOUNT: Names = &[
    ("accountName", "accountName"),
    ("domainName", "domainName"),
    ("userSid", "userSid"),
    ("azureAdUserId", "aadUserId"),
    ("userPrincipalName", "userPrincipalName"),
];
const FILE: Names =
    &[("sha1", "sha1"), ("sha256", "sha256"), ("fileName", "fileName"), ("filePath", "filePath")];
/// A type of both APIs: name in Graph, name in Defender, own properties, nested ones.
type Shared = (&'static str, &'static str, Names, &'static [(&'static str, Names)]);

const SHARED: [Shared; 11] = [
    ("user", "User", &[], &[("userAccount", ACCOUNT)]),
    ("ip", "Ip", &[("ipAddress", "ipAddress")], &[]),
    ("url", "Url", &[("url", "url")], &[]),
    ("file", "File", &[("mdeDeviceId", "deviceId")], &[("fileDetails", FILE)]),
    (
        "process",
        "Process",
        &[
            ("processId", "processId"),
            ("parentProcessId", "parentProcessId"),
            ("processCommandLine", "processCommandLine"),
            ("processCreationDateTime", "processCreationTime"),
            ("parentProcessCreationDateTime", "parentProcessCreationTime"),
            ("mdeDeviceId", "deviceId"),
        ],
        &[("imageFile", FILE), ("userAccount", ACCOUNT)],
    ),
    (
        "mailbox",
        "Mailbox",
        &[
            ("primaryAddress", "mailboxAddress"),
            ("displayName", "mailboxDisplayName"),
            ("upn", "userPrincipalName"),
        ],
        &[("userAccount", ACCOUNT)],
    ),
    (
        "analyzedMessage",
        "MailMessage",
        &[
            ("recipientEmailAddress", "recipient"),
            ("subject", "subject"),
            ("internetMessageId", "internetMessageId"),
            ("deliveryAction", "deliveryAction"),
        ],
        &[],
    ),
    (
        "mailCluster",
        "MailCluster",
        &[
            ("clusterBy", "clusterBy"),
            ("clusterByValue", "clusterByValue"),
            ("emailCount", "emailCount"),
        ],
        &[],
    ),
    (
        "registryKey",
        "Registry",
        &[("registryHive", "registryHive"), ("registryKey", "registryKey")],
        &[],
    ),
    (
        "registryValue",
        "Registry",
        &[
            ("registryHive", "registryHive"),
            ("registryKey", "registryKey"),
            ("registryValue", "registryValue"),
            ("registryValueType", "registryValueType"),
            ("mdeDeviceId", "deviceId"),
        ],
        &[],
    ),
    (
        "securityGroup",
        "SecurityGroup",
        &[("securityGroupId", "securityGroupId"), ("displayName", "securityGroupName")],
        &[],
    ),
];

/// The incident as the Defender API would serve it.
pub(crate) fn as_defender(incident: &Value) -> Value {
    let source = incident.as_object().unwrap();
    let mut fields = renamed(source, INCIDENT);
    for key in ["incidentId", "redirectIncidentId"] {
        if let Some(id) = fields.get(key).and_then(Value::as_str) {
            let id: i64 = id.parse().unwrap();
            fields.insert(key.to_owned(), id.into());
        }
    }
    let comments =
        objects(source, "comments").map(|comment| Value::from(renamed(comment, COMMENT)));
    fields.insert("comments".to_owned(), comments.collect());
    fields.insert("alerts".to_owned(), objects(source, "alerts").map(alert).collect());
    fields.into()
}

fn alert(source: &Object) -> Value {
    let mut fields = renamed(source, ALERT);
    let is_device = |evidence: &&Object| {
        type_of(evidence) == "device"
            && evidence["mdeDeviceId"].as_str().is_some_and(|id| !id.is_empty())
    };
    let devices = objects(source, "evidence").filter(is_device);
    let devices = devices.map(|device| json!({"mdatpDeviceId": device["mdeDeviceId"]}));
    fields.insert("devices".to_owned(), devices.collect());
    let entities = objects(source, "evidence").filter(|evidence| !is_device(evidence));
    fields.insert("entities".to_owned(), entities.map(entity).collect());
    fields.into()
}

fn entity(source: &Object) -> Value {
    let name = type_of(source);
    let shared = SHARED.iter().find(|(graph, ..)| *graph == name);
    let (kind, own, nested) = match shared {
        Some((_, kind, own, nested)) => ((*kind).to_owned(), *own, *nested),
        None => (upper_first(name), &[][..], &[][..]),
    };
    let mut rest: Object = source
        .iter()
        .filter(|(key, _)| !key.contains('@') && *key != "roles")
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut fields = taken(&mut rest, EVIDENCE);
    fields.insert("entityType".to_owned(), kind.into());
    if let Some(roles) = source.get("roles").and_then(Value::as_array) {
        let roles = roles.iter().map(|role| Value::from(upper_first(role.as_str().unwrap())));
        fields.insert("roles".to_owned(), roles.collect());
    }
    fields.extend(taken(&mut rest, own));
    for (key, names) in nested {
        let Some(Value::Object(inner)) = rest.get_mut(*key) else { continue };
        for (name, value) in taken(inner, names) {
            fields.entry(name).or_insert(value);
        }
        inner.retain(|_, value| !is_nothing(value));
    }
    // The sender is copied: it stands in `extra` as well.
    if name == "analyzedMessage" {
        let sender = |key: &str| source.get(key)?.get("emailAddress")?.as_str().map(Value::from);
        fields.extend(
            sender("p2Sender").or(sender("p1Sender")).map(|sender| ("sender".to_owned(), sender)),
        );
    }
    rest.retain(|_, value| !is_nothing(value));
    fields.extend(rest);
    fields.into()
}

/// The properties that have a name here; of two for one name the later one, unless it is empty.
fn renamed(source: &Object, names: Names) -> Object {
    let mut fields = Object::new();
    for (graph, ours) in names {
        if let Some(value) = source.get(*graph).filter(|value| !value.is_null()) {
            fields.insert((*ours).to_owned(), converted(ours, value));
        }
    }
    fields
}

/// The same, moved; an empty text counts as nothing.
fn taken(source: &mut Object, names: Names) -> Object {
    let mut fields = Object::new();
    for (graph, ours) in names {
        if let Some(value) = source.remove(*graph).filter(|value| !is_nothing(value)) {
            fields.insert((*ours).to_owned(), converted(ours, &value));
        }
    }
    fields
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Enumerations get the Defender API's spelling; a member that Graph withholds is nothing.
fn converted(name: &str, value: &Value) -> Value {
    const ENUMERATIONS: [&str; 9] = [
        "status",
        "severity",
        "classification",
        "determination",
        "serviceSource",
        "detectionSource",
        "investigationState",
        "verdict",
        "remediationStatus",
    ];
    let Some(text) = value.as_str().filter(|_| ENUMERATIONS.contains(&name)) else {
        return value.clone();
    };
    let ours = match (name, text) {
        (_, "unknownFutureValue") => return Value::Null,
        ("severity", "unknown") => "UnSpecified",
        ("determination", "unknown") => "NotAvailable",
        ("serviceSource", "microsoftDefenderForCloudApps") => "MicrosoftCloudAppSecurity",
        ("serviceSource", "azureAdIdentityProtection") => "AADIdentityProtection",
        ("detectionSource", "antivirus") => "WindowsDefenderAv",
        ("detectionSource", "microsoftDefenderForEndpoint") => "WindowsDefenderAtp",
        ("detectionSource", "cloudAppSecurity") => "MCAS",
        ("detectionSource", "microsoftDefenderForOffice365") => "OfficeATP",
        ("detectionSource", "azureAdIdentityProtection") => "AAD",
        ("detectionSource", "customTi") => "CustomerTI",
        ("detectionSource", "smartScreen") => "WindowsDefenderSmartScreen",
        ("detectionSource", "microsoftThreatExperts") => "ThreatExperts",
        ("detectionSource", "microsoft365Defender") => "MTP",
        (_, text) => return upper_first(text).into(),
    };
    ours.into()
}

/// `user` for `#microsoft.graph.security.userEvidence`.
fn type_of(evidence: &Object) -> &str {
    let name = evidence["@odata.type"].as_str().unwrap();
    name.rsplit('.').next().unwrap().trim_end_matches("Evidence")
}

fn upper_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn objects<'a>(source: &'a Object, key: &str) -> impl Iterator<Item = &'a Object> {
    let list = source.get(key).and_then(Value::as_array);
    list.into_iter().flatten().map(|element| element.as_object().unwrap())
}
