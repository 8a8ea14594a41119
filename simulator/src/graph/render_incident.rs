//! Converts an incident of the Defender API to Graph's schema, the inverse of the product's conversion.

use chrono::TimeDelta;

use super::enums::{camel_case, plain, severity};
use super::fields::{Fields, View, map_objects, text};
use super::render_evidence::Scene;
use super::rendered::Variant;
use crate::time;

/// The incident without alerts and without its closing brace, in the order of real responses.
pub(super) fn head(incident: &View<'_>, variant: &Variant) -> String {
    let id = digits(incident.raw("incidentId"));
    let seed = variant.seed(&id);
    let spelling = variant.spelling();
    let differs = variant.behaviour.differs;
    let updated = incident.raw("lastUpdateTime");
    let is_resolved = incident.raw("status") == Some("\"Resolved\"");
    let tags = incident.raw("tags").or(differs.then_some("[]"));
    Fields::new()
        .with("@odata.etag", format!("W/\"{:016x}\"", variant.seed(updated.unwrap_or(&id))))
        .with("id", &id)
        .with("tenantId", variant.tenant)
        .raw("status", spelling.incident_status(incident.raw("status")).as_deref())
        .raw("incidentWebUrl", Some(&portal_link(incident, &id, variant)))
        .raw("redirectIncidentId", incident.raw("redirectIncidentId").map(quoted).as_deref())
        .raw("displayName", incident.raw("incidentName"))
        .raw("createdDateTime", created(incident, variant).as_deref())
        .raw("lastUpdateDateTime", updated)
        .raw("assignedTo", incident.raw("assignedTo"))
        .raw("classification", plain(incident.raw("classification")).as_deref())
        .raw("determination", spelling.determination(incident.raw("determination")).as_deref())
        .raw("severity", severity(incident.raw("severity")).as_deref())
        .raw("customTags", tags)
        .with("systemTags", system_tags(seed))
        .raw("description", description(incident, seed).as_deref())
        .with(
            "lastModifiedBy",
            if seed.is_multiple_of(3) {
                "API-App:soc"
            } else {
                "Microsoft 365 Defender-IncidentCreation"
            },
        )
        .with(
            "resolvingComment",
            is_resolved.then_some("Incident resolved as all alerts in the incident were resolved."),
        )
        .with(
            "summary",
            seed.is_multiple_of(4)
                .then_some("The attacker used stolen credentials; the accounts were disabled."),
        )
        .with("priorityScore", (!seed.is_multiple_of(9)).then_some(seed % 101))
        .raw("comments", comments(incident, differs).as_deref())
        .unclosed()
}

/// The real APIs may have different links to the same page.
fn portal_link(incident: &View<'_>, id: &str, variant: &Variant) -> String {
    match incident.raw("incidentUri") {
        Some(uri) if !variant.behaviour.differs => uri.to_owned(),
        _ => text(format!(
            "https://security.microsoft.com/incident2/{id}/overview?tid={}",
            variant.tenant
        )),
    }
}

fn created(incident: &View<'_>, variant: &Variant) -> Option<String> {
    let json = incident.raw("createdTime")?;
    let later = TimeDelta::seconds(variant.behaviour.created_later_s);
    let parsed = serde_json::from_str::<String>(json).ok().and_then(|text| time::parse(&text));
    match parsed {
        Some(created) if !later.is_zero() => Some(text(time::format(created + later))),
        _ => Some(json.to_owned()),
    }
}

fn system_tags(seed: u64) -> &'static [&'static str] {
    match seed % 7 {
        0 => &["Credential Phish"],
        1 => &["Defender Experts", "Ransomware"],
        _ => &[],
    }
}

fn description(incident: &View<'_>, seed: u64) -> Option<String> {
    let name: String = incident.get("incidentName")?;
    seed.is_multiple_of(2)
        .then(|| text(format!("Microsoft Defender correlated alerts about: {name}")))
}

fn comments(incident: &View<'_>, differs: bool) -> Option<String> {
    map_objects(incident.raw("comments"), |comment| {
        let mut author = comment.raw("createdBy").map(str::to_owned);
        if differs && let Some(name) = comment.get::<String>("createdBy") {
            author = Some(text(display_name(&name)));
        }
        Fields::new()
            .raw("comment", comment.raw("comment"))
            .raw("createdByDisplayName", author.as_deref())
            .raw("createdDateTime", comment.raw("createdTime"))
            .close()
    })
}

/// `J Doe` for `j.doe@contoso.example`.
fn display_name(principal: &str) -> String {
    let local = principal.split('@').next().unwrap_or(principal);
    let upper = |part: &str| {
        let mut letters = part.chars();
        letters
            .next()
            .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    };
    local.split('.').map(upper).collect::<Vec<String>>().join(" ")
}

/// The id without quotes, if there are any.
fn digits(json: Option<&str>) -> String {
    json.unwrap_or_default().trim_matches('"').to_owned()
}

/// Numbers become strings; other values are unchanged.
fn quoted(json: &str) -> String {
    if json.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        format!("\"{json}\"")
    } else {
        json.to_owned()
    }
}

/// The values that alerts take from their incident.
pub(super) struct Parent<'a> {
    id: String,
    link: String,
    variant: &'a Variant,
}

impl<'a> Parent<'a> {
    pub(super) fn new(incident: &View<'_>, variant: &'a Variant) -> Self {
        let id = digits(incident.raw("incidentId"));
        Self { link: portal_link(incident, &id, variant), id, variant }
    }

    /// The alert at this position of the incident.
    pub(super) fn alert(&self, alert: &View<'_>, place: usize) -> String {
        let (variant, spelling) = (self.variant, self.variant.spelling());
        let mut id: String = alert.get("alertId").unwrap_or_default();
        let provider_id = (variant.behaviour.differs && id.is_char_boundary(2) && id.len() > 2)
            .then(|| text(&id[2..]));
        if variant.behaviour.uppercase_alert_ids {
            id.make_ascii_uppercase();
        }
        let seed = variant.seed(&id);
        let raw = |key| alert.raw(key);
        let alert_id = if raw("alertId").is_some_and(|json| json.starts_with('"')) {
            Some(text(&id))
        } else {
            raw("alertId").map(str::to_owned)
        };
        let service: String = alert.get("serviceSource").unwrap_or_default();
        let scene = Scene::new(variant, raw("creationTime"));
        Fields::new()
            .raw("id", alert_id.as_deref())
            .raw("providerAlertId", raw("providerAlertId").or(provider_id.as_deref()))
            .with("incidentId", &self.id)
            .raw("status", plain(raw("status")).as_deref())
            .raw("severity", severity(raw("severity")).as_deref())
            .raw("classification", plain(raw("classification")).as_deref())
            .raw("determination", spelling.determination(raw("determination")).as_deref())
            .raw("serviceSource", spelling.service_source(raw("serviceSource")).as_deref())
            .raw("detectionSource", spelling.detection_source(raw("detectionSource")).as_deref())
            .with("productName", product_name(&service))
            .raw("detectorId", raw("detectorId"))
            .with("tenantId", variant.tenant)
            .raw("title", raw("title"))
            .raw("description", raw("description"))
            .with(
                "recommendedActions",
                if seed.is_multiple_of(3) {
                    ""
                } else {
                    "1. Isolate the device.\n2. Reset the password."
                },
            )
            .raw("category", raw("category"))
            .raw(
                "categories",
                Some(
                    &raw("category")
                        .map_or_else(|| "[]".to_owned(), |category| format!("[{category}]")),
                ),
            )
            .raw("assignedTo", raw("assignedTo"))
            .with(
                "alertWebUrl",
                format!("https://security.microsoft.com/alerts/{id}?tid={}", variant.tenant),
            )
            .raw("incidentWebUrl", Some(&self.link))
            .raw("actorDisplayName", raw("actorName"))
            .raw("threatDisplayName", None)
            .raw("threatFamilyName", raw("threatFamilyName"))
            .raw("mitreTechniques", raw("mitreTechniques"))
            .raw("createdDateTime", raw("creationTime"))
            .raw("lastUpdateDateTime", raw("lastUpdatedTime"))
            .raw("resolvedDateTime", raw("resolvedTime"))
            .raw("firstActivityDateTime", raw("firstActivity"))
            .raw("lastActivityDateTime", raw("lastActivity"))
            .with("systemTags", system_tags(seed))
            .with("alertPolicyId", seed.is_multiple_of(2).then(|| policy_id(seed)))
            .raw("investigationState", plain(raw("investigationState")).as_deref())
            .raw("comments", Some("[]"))
            .raw("customDetails", Some("{}"))
            .raw("evidence", Some(&scene.evidence(alert, &self.id, place)))
            .raw("additionalData", Some("{}"))
            .close()
    }
}

fn policy_id(seed: u64) -> String {
    uuid::Uuid::from_u64_pair(seed, !seed).to_string()
}

fn product_name(service_source: &str) -> String {
    let name = match service_source {
        "MicrosoftCloudAppSecurity" => "Microsoft Defender for Cloud Apps",
        "MicrosoftDefenderForOffice365" | "OfficeATP" => "Microsoft Defender for Office 365",
        "AADIdentityProtection" => "Microsoft Entra ID Protection",
        "Microsoft365Defender" => "Microsoft Defender XDR",
        "MicrosoftDefenderForEndpoint" | "MicrosoftDefenderATP" => {
            "Microsoft Defender for Endpoint"
        }
        other => return camel_case(other),
    };
    name.to_owned()
}
