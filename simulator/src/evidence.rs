//! Devices and entities of seeded alerts, in the two observed forms: the documents show every key, with null for missing
//! values; real responses contain only keys with values, and a few undocumented ones.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::json::Object;
use super::random::{Random, mix};
use super::sample_data::{FIRST_NAMES, LAST_NAMES};
use super::time;

/// The form of a tenant's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Documented,
    Real,
}

/// Every documented key of an entity, in the order of the documents.
const ENTITY_KEYS: [&str; 31] = [
    "entityType",
    "sha1",
    "sha256",
    "fileName",
    "filePath",
    "processId",
    "processCommandLine",
    "processCreationTime",
    "parentProcessId",
    "parentProcessCreationTime",
    "ipAddress",
    "url",
    "accountName",
    "domainName",
    "userSid",
    "aadUserId",
    "userPrincipalName",
    "mailboxDisplayName",
    "mailboxAddress",
    "clusterBy",
    "sender",
    "recipient",
    "subject",
    "deliveryAction",
    "securityGroupId",
    "securityGroupName",
    "registryHive",
    "registryKey",
    "registryValueType",
    "registryValue",
    "deviceId",
];

/// The kinds of entities, generated in turn.
const KINDS: usize = 10;

/// Properties of the alert that its entities need.
pub(super) struct Scene<'a> {
    pub(super) domain: &'a str,
    pub(super) device_id: &'a str,
    pub(super) at: DateTime<Utc>,
    pub(super) shape: Shape,
}

/// The entity with this number.
pub(super) fn entity(turn: usize, scene: &Scene<'_>, random: &mut Random) -> Object {
    let mut fields = fields(turn % KINDS, scene, random);
    // Only these name a device, in the documented sample and in Graph.
    if turn % 3 != 2 && matches!(turn % KINDS, 3 | 4 | 7) {
        fields.push(("deviceId", json!(scene.device_id)));
    }
    match scene.shape {
        Shape::Documented => {
            let mut entity = Object::default();
            for key in ENTITY_KEYS {
                let value = fields.iter().find(|(name, _)| *name == key);
                entity.set(key, value.map_or(&Value::Null, |(_, value)| value));
            }
            entity
        }
        Shape::Real => {
            let mut entity = Object::default();
            for (key, value) in fields {
                entity.set(key, value);
            }
            entity
                .with("evidenceCreationTime", time::format(scene.at))
                .with("verdict", random.pick(&["Suspicious", "Malicious", "Unknown"]))
                .with("remediationStatus", random.pick(&["None", "Active", "Remediated"]))
        }
    }
}

type Fields = Vec<(&'static str, Value)>;

fn fields(kind: usize, scene: &Scene<'_>, random: &mut Random) -> Fields {
    let mut fields = match kind {
        0 => user(scene, random),
        1 => vec![("entityType", json!("Ip")), ("ipAddress", json!(address(random)))],
        2 => vec![
            ("entityType", json!("Url")),
            ("url", json!(format!("https://cdn-{}.example/{}", random.hex(6), random.hex(12)))),
        ],
        3 => file(random),
        4 => process(scene, random),
        5 | 6 => mail(kind, scene, random),
        7 => vec![
            ("entityType", json!("Registry")),
            ("registryHive", json!("HKEY_CURRENT_USER")),
            ("registryKey", json!(r"Software\Microsoft\Windows\CurrentVersion\Run")),
            ("registryValueType", json!("ExpandString")),
            ("registryValue", json!(format!(r"%APPDATA%\{}\updater.exe", random.hex(6)))),
        ],
        8 => mail_cluster(scene, random),
        _ => vec![
            ("entityType", json!("SecurityGroup")),
            ("securityGroupId", json!(random.uuid())),
            ("securityGroupName", json!("Finance readers")),
        ],
    };
    if scene.shape == Shape::Documented {
        fields.retain(|(key, _)| ENTITY_KEYS.contains(key));
    }
    fields
}

fn user(scene: &Scene<'_>, random: &mut Random) -> Fields {
    let account = person(random);
    vec![
        ("entityType", json!("User")),
        ("userPrincipalName", json!(format!("{account}@{}", scene.domain))),
        ("accountName", json!(account)),
        ("domainName", json!(scene.domain.split('.').next())),
        (
            "userSid",
            json!(format!(
                "S-1-5-21-1721254763-462695806-1538882281-{}",
                1000 + random.below(9000)
            )),
        ),
        ("aadUserId", json!(random.uuid())),
    ]
}

fn file(random: &mut Random) -> Fields {
    vec![
        ("entityType", json!("File")),
        ("sha1", json!(random.hex(40))),
        ("sha256", json!(random.hex(64))),
        ("fileName", json!(format!("invoice_{}.exe", random.below(10_000)))),
        ("filePath", json!(r"C:\Users\Public\Downloads")),
    ]
}

fn process(scene: &Scene<'_>, random: &mut Random) -> Fields {
    let id = 1000 + random.below(60_000);
    vec![
        ("entityType", json!("Process")),
        ("sha1", json!(random.hex(40))),
        ("fileName", json!("powershell.exe")),
        ("filePath", json!(r"C:\Windows\System32\WindowsPowerShell\v1.0")),
        ("processId", json!(id)),
        (
            "processCommandLine",
            json!(format!(r#""powershell.exe" -NoP -W Hidden -Enc {}"#, random.hex(48))),
        ),
        ("processCreationTime", json!(time::format(scene.at - TimeDelta::seconds(40)))),
        ("parentProcessId", json!(id / 2)),
        ("parentProcessCreationTime", json!(time::format(scene.at - TimeDelta::minutes(9)))),
    ]
}

fn mail(kind: usize, scene: &Scene<'_>, random: &mut Random) -> Fields {
    let recipient = format!("{}@{}", person(random), scene.domain);
    if kind == 5 {
        return vec![
            // As in real responses; the documents have `MailBox`.
            ("entityType", json!("Mailbox")),
            ("userPrincipalName", json!(recipient)),
            ("mailboxDisplayName", json!(recipient.split('@').next())),
            ("mailboxAddress", json!(recipient)),
        ];
    }
    vec![
        ("entityType", json!("MailMessage")),
        ("sender", json!(format!("billing@{}.example", random.hex(8)))),
        ("recipient", json!(recipient)),
        ("subject", json!(format!("Outstanding invoice {}", random.below(100_000)))),
        ("deliveryAction", json!(random.pick(&["Delivered", "Blocked"]))),
        ("internetMessageId", json!(format!("<{}@mail.example>", random.hex(16)))),
    ]
}

fn mail_cluster(scene: &Scene<'_>, random: &mut Random) -> Fields {
    vec![
        ("entityType", json!("MailCluster")),
        ("clusterBy", json!("Subject;P2SenderDomain;ContentType")),
        ("clusterByValue", json!(format!("Outstanding invoice;{};1", scene.domain))),
        ("emailCount", json!(1 + random.below(40))),
    ]
}

fn address(random: &mut Random) -> String {
    if random.chance(15) {
        format!("2001:db8:{}::{}", random.hex(4), random.hex(3))
    } else {
        // TEST-NET-3, so that the demonstration shows no real address as an attacker's.
        format!("203.0.113.{}", random.below(256))
    }
}

fn person(random: &mut Random) -> String {
    format!("{}.{}", random.pick(FIRST_NAMES), random.pick(LAST_NAMES))
}

/// A device of the pool. Its state depends on its version only. The build number grows with the version, so that tests can
/// recognize the newest state.
pub(super) fn device(id: &str, place: usize, version: u32, domain: &str) -> Object {
    let nature = Random::new(mix(place as u64)).number();
    let server = place.is_multiple_of(5);
    let at = |list: &[&'static str], shift: u64| {
        list[usize::try_from((nature + shift) % list.len() as u64).expect("a place in the list")]
    };
    let device = Object::default()
        .with("mdatpDeviceId", id)
        .with("aadDeviceId", (!server).then(|| Random::new(nature).uuid()))
        .with("deviceDnsName", format!("{}-{place:03}.{domain}", if server { "srv" } else { "ws" }))
        .with("osPlatform", if server { "WindowsServer2022" } else { "Windows11" })
        .with("version", if server { "21H2" } else { "23H2" })
        .with("osProcessor", "x64")
        .with("osBuild", 20_348 + version)
        .with(
            "healthStatus",
            at(&["Active", "Inactive", "ImpairedCommunication"], u64::from(version)),
        )
        .with(
            "riskScore",
            at(&["None", "Informational", "Low", "Medium", "High"], u64::from(version)),
        )
        .with("rbacGroupName", at(&["Workstations", "Servers", "Executives"], 0))
        .with("rbacGroupId", nature % 12)
        .with("firstSeen", format!("2023-0{}-11T14:16:01.9330135Z", 1 + nature % 9));
    if place.is_multiple_of(2) {
        return device;
    }
    device
        .with("tags", if server { vec!["Tier 0"] } else { Vec::new() })
        .with("defenderAvStatus", "Updated")
        .with("onboardingStatus", "Onboarded")
        .with(
            "vmMetadata",
            server.then(|| json!({"vmId": Random::new(nature).uuid(), "cloudProvider": "Azure"})),
        )
}
