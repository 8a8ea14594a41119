//! Incidents and alerts of the Microsoft Graph security API. Its names and values become those of the Defender API, so that
//! rows mean the same from both sources.
//!
//! Source: the schema of `microsoftgraph/msgraph-metadata` (`v1.0-Prod.csdl`) and payloads in public issue threads.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::de::MapAccess;
use serde_json::value::RawValue;

use super::key::IncidentKey;
use super::lenient::{FromJson, Key, Lenient, Objects, api_object, take};
use super::merge_target;
use crate::incident::columns::{AlertColumns, CommentColumns, IncidentColumns, Text, Texts};
use crate::incident::raw::RawIncident;
use crate::incident::rows::{
    AlertRow, CommentRow, DecodedAlert, DecodedIncident, IncidentRow, is_key, stated_extra,
};
use crate::incident::tenant_check::NamedTenants;
use crate::incident::text::{growth, without_content};
use evidence::{Entity, Properties};
use values::{Enumeration, convert};

mod device;
mod evidence;
mod identity;
mod properties;
mod values;

/// Decodes an incident, with the alerts that stand in it; fails with the reason to set it aside.
pub(super) fn decode<'a>(element: &'a RawIncident<'_>) -> Result<DecodedIncident<'a>, String> {
    growth::check_growth(&element.text)?;
    let mut incident: Incident<'a> = parse(&element.text)?;
    let incident_id = incident.incident_id.ok_or("id is missing or no whole number")?;
    let last_update_time =
        incident.last_update_time.ok_or("lastUpdateDateTime is missing or no time")?;
    let key =
        IncidentKey { incident_id: Some(incident_id), last_update_time: Some(last_update_time) };
    // A key that is repeated with another value: each run would look one incident up and store another one.
    if element.head != key {
        return Err("id or lastUpdateDateTime is given twice".to_owned());
    }
    let mut mistyped = std::mem::take(&mut incident.mistyped);
    incident.convert(&mut mistyped);
    let mut named = NamedTenants::default();
    named.ids.extend(incident.tenant_id);
    named.links.extend(incident.columns.incident_uri.clone());
    let comments = incident.comments.unwrap_or_default().into_iter();
    let comments = comments.map(|comment| comment.row(incident_id, &mut mistyped)).collect();
    let alerts = incident.alerts.unwrap_or_default().into_iter();
    let alerts = alerts.filter_map(|alert| {
        alert.decoded((incident_id, last_update_time), &mut named, &mut mistyped)
    });
    let alerts = alerts.collect();
    let row = IncidentRow {
        incident_id,
        last_update_time,
        columns: incident.columns,
        extra: stated_extra(incident.unknown),
        content_hash: element.hash,
        payload: &element.text,
    };
    Ok(DecodedIncident { row, comments, alerts, named, mistyped })
}

/// An alert of a list of alerts. It says which incident lists it, but not which version of the incident.
#[derive(Debug)]
pub(super) struct ListedAlert<'a> {
    /// `None` for an alert of no incident, or without a usable id.
    pub(super) alert: Option<DecodedAlert<'a>>,
    pub(super) named: NamedTenants<'a>,
    pub(super) mistyped: Vec<&'static str>,
}

/// Decodes an alert; fails with the reason to leave it to the list of incidents.
pub(super) fn decode_alert<'a>(element: &'a RawIncident<'_>) -> Result<ListedAlert<'a>, String> {
    growth::check_growth(&element.text)?;
    let alert: Alert<'a> = parse(&element.text)?;
    let (mut named, mut mistyped) = (NamedTenants::default(), Vec::new());
    let version = alert.incident_id.zip(alert.columns.last_updated_time);
    let alert = match version {
        Some(version) => alert.decoded(version, &mut named, &mut mistyped),
        None => {
            mistyped.extend(alert.mistyped);
            named.ids.extend(alert.tenant_id);
            named.links.extend(alert.incident_web_url);
            None
        }
    };
    Ok(ListedAlert { alert, named, mistyped })
}

fn parse<'a, T: FromJson<'a>>(text: &'a str) -> Result<T, String> {
    let object: Lenient<T> = serde_json::from_str(text).map_err(|error| without_content(&error))?;
    object.value().ok_or_else(|| "it is not a JSON object".to_owned())
}

impl Incident<'_> {
    fn convert(&mut self, mistyped: &mut Vec<&'static str>) {
        let columns = &mut self.columns;
        convert(&mut columns.status, Enumeration::Regular, "status", mistyped);
        convert(&mut columns.severity, Enumeration::Severity, "severity", mistyped);
        convert(&mut columns.classification, Enumeration::Regular, "classification", mistyped);
        convert(&mut columns.determination, Enumeration::Determination, "determination", mistyped);
        // An example of the documentation has the custom tags under another name.
        columns.tags = columns.tags.take().or_else(|| self.tags.take());
        columns.redirect_incident_id = merge_target(columns.redirect_incident_id);
        // The column is an integer, as Graph's own type is.
        if columns.priority_score.is_some_and(|score| i32::try_from(score).is_err()) {
            columns.priority_score = None;
            mistyped.push("priorityScore");
        }
    }
}

impl<'a> Comment<'a> {
    fn row(mut self, incident_id: i64, mistyped: &mut Vec<&'static str>) -> CommentRow<'a> {
        mistyped.append(&mut self.mistyped);
        // Examples of the documentation have older names.
        let columns = CommentColumns {
            created_by: self.columns.created_by.or(self.created_by),
            created_time: self.columns.created_time.or(self.created_time),
            ..self.columns
        };
        CommentRow::new(incident_id, columns)
    }
}

impl<'a> Alert<'a> {
    /// `None` without a usable id.
    fn decoded(
        mut self,
        (incident_id, last_seen): (i64, DateTime<Utc>),
        named: &mut NamedTenants<'a>,
        mistyped: &mut Vec<&'static str>,
    ) -> Option<DecodedAlert<'a>> {
        mistyped.append(&mut self.mistyped);
        named.ids.extend(self.tenant_id.take());
        named.links.extend(self.incident_web_url.take());
        self.convert(mistyped);
        let Some(alert_id) = self.alert_id.filter(|id| is_key(id)) else {
            mistyped.push("id");
            return None;
        };
        let (mut devices, mut entities) = (Vec::new(), Vec::new());
        for properties in self.evidence.unwrap_or_default() {
            if device::has_id(&properties) {
                devices.extend(device::row(&properties, last_seen, mistyped));
            } else {
                entities.push(Entity::new(&properties, mistyped));
            }
        }
        let evidence = evidence::evidence_rows(&alert_id, entities);
        let row = AlertRow {
            alert_id,
            incident_id,
            last_seen,
            columns: self.columns,
            // Those stay evidence.
            devices_without_id: 0,
            extra: stated_extra(self.unknown),
        };
        Some(DecodedAlert { row, devices, evidence })
    }

    fn convert(&mut self, mistyped: &mut Vec<&'static str>) {
        use Enumeration::{DetectionSource, Determination, Regular, ServiceSource, Severity};
        let columns = &mut self.columns;
        convert(&mut columns.status, Regular, "status", mistyped);
        convert(&mut columns.severity, Severity, "severity", mistyped);
        convert(&mut columns.classification, Regular, "classification", mistyped);
        convert(&mut columns.determination, Determination, "determination", mistyped);
        convert(&mut columns.service_source, ServiceSource, "serviceSource", mistyped);
        convert(&mut columns.detection_source, DetectionSource, "detectionSource", mistyped);
        convert(&mut columns.investigation_state, Regular, "investigationState", mistyped);
        // Microsoft removes `category` in 2028.
        let first = || columns.categories.as_ref()?.first().cloned();
        columns.category = columns.category.take().or_else(first);
    }
}

api_object! {
    Incident {
        columns: IncidentColumns {
            "incidentWebUrl" => incident_uri,
            "redirectIncidentId" => redirect_incident_id,
            "displayName" => incident_name,
            "createdDateTime" => created_time,
            "assignedTo" => assigned_to,
            "classification" => classification,
            "determination" => determination,
            "status" => status,
            "severity" => severity,
            "customTags" => tags,
            "description" => description,
            "summary" => summary,
            "resolvingComment" => resolving_comment,
            "lastModifiedBy" => last_modified_by,
            "priorityScore" => priority_score,
            "systemTags" => system_tags,
        }
        "id" => incident_id: i64,
        "lastUpdateDateTime" => last_update_time: DateTime<Utc>,
        "tenantId" => tenant_id: Text<'a>,
        "tags" => tags: Texts<'a>,
        "comments" => comments: Objects<Comment<'a>>,
        "alerts" => alerts: Objects<Alert<'a>>,
    }
}

api_object! {
    /// A comment of an incident.
    Comment {
        columns: CommentColumns {
            "comment" => comment,
            "createdByDisplayName" => created_by,
            "createdDateTime" => created_time,
        }
        "createdBy" => created_by: Text<'a>,
        "createdTime" => created_time: DateTime<Utc>,
    }
}

api_object! {
    Alert {
        columns: AlertColumns {
            "providerAlertId" => provider_alert_id,
            "serviceSource" => service_source,
            "detectionSource" => detection_source,
            "detectorId" => detector_id,
            "createdDateTime" => creation_time,
            "lastUpdateDateTime" => last_updated_time,
            "resolvedDateTime" => resolved_time,
            "firstActivityDateTime" => first_activity,
            "lastActivityDateTime" => last_activity,
            "title" => title,
            "description" => description,
            "category" => category,
            "status" => status,
            "severity" => severity,
            "investigationState" => investigation_state,
            "classification" => classification,
            "determination" => determination,
            "assignedTo" => assigned_to,
            "actorDisplayName" => actor_name,
            "threatFamilyName" => threat_family_name,
            "mitreTechniques" => mitre_techniques,
            "alertWebUrl" => alert_web_url,
            "recommendedActions" => recommended_actions,
            "productName" => product_name,
            "alertPolicyId" => alert_policy_id,
            "categories" => categories,
            "systemTags" => system_tags,
        }
        "id" => alert_id: Text<'a>,
        "incidentId" => incident_id: i64,
        "incidentWebUrl" => incident_web_url: Text<'a>,
        "tenantId" => tenant_id: Text<'a>,
        "evidence" => evidence: Objects<Properties<'a>>,
    }
}

#[cfg(test)]
mod tests;
