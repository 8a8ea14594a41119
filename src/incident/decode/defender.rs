//! Incidents of the Microsoft 365 Defender API.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::de::MapAccess;
use serde_json::value::RawValue;

use super::key::IncidentKey;
use super::lenient::{FromJson, Key, Lenient, Objects, api_object, take};
use super::merge_target;
use crate::incident::columns::{
    AlertColumns, CommentColumns, DeviceColumns, EvidenceColumns, IncidentColumns,
};
use crate::incident::raw::RawIncident;
use crate::incident::rows::{
    AlertRow, CommentRow, DecodedAlert, DecodedIncident, DeviceRow, EvidenceRow, IncidentRow,
    is_key, stated_extra,
};
use crate::incident::tenant_check::NamedTenants;
use crate::incident::text::{growth, without_content};

/// Decodes an incident; fails with the reason to set it aside.
pub(super) fn decode<'a>(element: &'a RawIncident<'_>) -> Result<DecodedIncident<'a>, String> {
    growth::check_growth(&element.text)?;
    let incident = parse(&element.text)?;
    let incident_id = incident.incident_id.ok_or("incidentId is missing or no whole number")?;
    let last_update_time =
        incident.last_update_time.ok_or("lastUpdateTime is missing or no time")?;
    let key =
        IncidentKey { incident_id: Some(incident_id), last_update_time: Some(last_update_time) };
    // A key that is repeated with another value: each run would look one incident up and store another one.
    if element.head != key {
        return Err("incidentId or lastUpdateTime is given twice".to_owned());
    }
    let mut columns = incident.columns;
    columns.redirect_incident_id = merge_target(columns.redirect_incident_id);
    let row = IncidentRow {
        incident_id,
        last_update_time,
        columns,
        extra: stated_extra(incident.unknown),
        content_hash: element.hash,
        payload: &element.text,
    };
    let mut mistyped = incident.mistyped;
    let comments = incident.comments.unwrap_or_default().into_iter();
    let comments = comments.map(|comment| CommentRow::new(incident_id, comment.columns)).collect();
    let alerts = incident.alerts.unwrap_or_default().into_iter();
    let alerts = alerts.filter_map(|alert| alert.decoded(&row, &mut mistyped)).collect();
    let links = row.columns.incident_uri.clone().into_iter().collect();
    let named = NamedTenants { links, ids: Vec::new() };
    Ok(DecodedIncident { row, comments, alerts, named, mistyped })
}

/// Parses an incident from its storable text.
pub(super) fn parse(text: &str) -> Result<Incident<'_>, String> {
    let incident: Lenient<Incident<'_>> =
        serde_json::from_str(text).map_err(|error| without_content(&error))?;
    incident.value().ok_or_else(|| "it is not a JSON object".to_owned())
}

impl<'a> Alert<'a> {
    /// `None` without a usable id.
    fn decoded(
        mut self,
        incident: &IncidentRow<'_>,
        mistyped: &mut Vec<&'static str>,
    ) -> Option<DecodedAlert<'a>> {
        mistyped.append(&mut self.mistyped);
        let Some(alert_id) = self.alert_id.filter(|id| is_key(id)) else {
            mistyped.push("alertId");
            return None;
        };
        let last_seen = incident.last_update_time;
        let named = self.devices.unwrap_or_default();
        let named_count = named.len();
        let devices = named.into_iter().filter_map(|device| device.row(last_seen, mistyped));
        let devices: Vec<_> = devices.collect();
        let entities = self.entities.unwrap_or_default().into_iter();
        let evidence = entities.map(|mut entity| {
            mistyped.append(&mut entity.mistyped);
            EvidenceRow::new(alert_id.clone(), entity.columns, &entity.unknown)
        });
        let evidence = evidence.collect();
        let row = AlertRow {
            alert_id,
            incident_id: incident.incident_id,
            last_seen,
            columns: self.columns,
            devices_without_id: i32::try_from(named_count - devices.len()).unwrap_or(i32::MAX),
            extra: stated_extra(self.unknown),
        };
        Some(DecodedAlert { row, devices, evidence })
    }
}

impl<'a> Device<'a> {
    /// `None` without a usable id.
    fn row(
        mut self,
        last_seen: DateTime<Utc>,
        mistyped: &mut Vec<&'static str>,
    ) -> Option<DeviceRow<'a>> {
        mistyped.append(&mut self.mistyped);
        self.columns.vm_metadata = self.vm_metadata().map(Cow::Borrowed);
        let Some(device_id) = self.device_id.filter(|id| is_key(id)) else {
            mistyped.push("mdatpDeviceId");
            return None;
        };
        Some(DeviceRow { device_id, last_seen, columns: self.columns })
    }

    /// `vmMetadata`, whose shape is not documented, as its JSON text.
    fn vm_metadata(&self) -> Option<&'a str> {
        let (_, raw) = self.unknown.iter().rev().find(|(key, _)| key == "vmMetadata")?;
        (raw.get() != "null").then(|| raw.get())
    }
}

api_object! {
    /// An incident. Source: `MicrosoftDocs/defender-docs`, `api-list-incidents.md` and `api-incident.md`.
    Incident {
        columns: IncidentColumns {
            "incidentUri" => incident_uri,
            "redirectIncidentId" => redirect_incident_id,
            "incidentName" => incident_name,
            "createdTime" => created_time,
            "assignedTo" => assigned_to,
            "classification" => classification,
            "determination" => determination,
            "status" => status,
            "severity" => severity,
            "detectionSource" => detection_source,
            "tags" => tags,
        }
        "incidentId" => incident_id: i64,
        "lastUpdateTime" => last_update_time: DateTime<Utc>,
        "comments" => comments: Objects<Comment<'a>>,
        "alerts" => alerts: Objects<Alert<'a>>,
    }
}

api_object! {
    /// A comment of an incident.
    Comment {
        columns: CommentColumns {
            "comment" => comment,
            "createdBy" => created_by,
            "createdTime" => created_time,
        }
    }
}

api_object! {
    /// An alert of an incident.
    Alert {
        columns: AlertColumns {
            "providerAlertId" => provider_alert_id,
            "serviceSource" => service_source,
            "detectionSource" => detection_source,
            "detectorId" => detector_id,
            "creationTime" => creation_time,
            "lastUpdatedTime" => last_updated_time,
            "resolvedTime" => resolved_time,
            "firstActivity" => first_activity,
            "lastActivity" => last_activity,
            "title" => title,
            "description" => description,
            "category" => category,
            "status" => status,
            "severity" => severity,
            "investigationId" => investigation_id,
            "investigationState" => investigation_state,
            "classification" => classification,
            "determination" => determination,
            "assignedTo" => assigned_to,
            "actorName" => actor_name,
            "threatFamilyName" => threat_family_name,
            "mitreTechniques" => mitre_techniques,
        }
        "alertId" => alert_id: Cow<'a, str>,
        "incidentId" => incident_id: i64,
        "devices" => devices: Objects<Device<'a>>,
        "entities" => entities: Objects<Entity<'a>>,
    }
}

api_object! {
    /// A device that an alert names.
    Device {
        columns: DeviceColumns {
            "aadDeviceId" => aad_device_id,
            "deviceDnsName" => device_dns_name,
            "osPlatform" => os_platform,
            "version" => version,
            "osProcessor" => os_processor,
            "osBuild" => os_build,
            "healthStatus" => health_status,
            "riskScore" => risk_score,
            "rbacGroupId" => rbac_group_id,
            "rbacGroupName" => rbac_group_name,
            "firstSeen" => first_seen,
            "tags" => tags,
            "defenderAvStatus" => defender_av_status,
            "onboardingStatus" => onboarding_status,
        }
        "mdatpDeviceId" => device_id: Cow<'a, str>,
    }
}

api_object! {
    /// An entity of an alert.
    Entity {
        columns: EvidenceColumns {
            "entityType" => entity_type,
            "evidenceCreationTime" => evidence_creation_time,
            "verdict" => verdict,
            "remediationStatus" => remediation_status,
            "sha1" => sha1,
            "sha256" => sha256,
            "fileName" => file_name,
            "filePath" => file_path,
            "processId" => process_id,
            "processCommandLine" => process_command_line,
            "processCreationTime" => process_creation_time,
            "parentProcessId" => parent_process_id,
            "parentProcessCreationTime" => parent_process_creation_time,
            "ipAddress" => ip_address,
            "url" => url,
            "accountName" => account_name,
            "domainName" => domain_name,
            "userSid" => user_sid,
            "aadUserId" => aad_user_id,
            "userPrincipalName" => user_principal_name,
            "mailboxDisplayName" => mailbox_display_name,
            "mailboxAddress" => mailbox_address,
            "clusterBy" => cluster_by,
            "clusterByValue" => cluster_by_value,
            "emailCount" => email_count,
            "sender" => sender,
            "recipient" => recipient,
            "subject" => subject,
            "internetMessageId" => internet_message_id,
            "deliveryAction" => delivery_action,
            "securityGroupId" => security_group_id,
            "securityGroupName" => security_group_name,
            "registryHive" => registry_hive,
            "registryKey" => registry_key,
            "registryValueType" => registry_value_type,
            "registryValue" => registry_value,
            "deviceId" => device_id,
        }
    }
}
