//! Devices that an alert names. Graph lists them among the evidence.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::evidence::Properties;
use super::values::{Enumeration, convert};
use crate::incident::columns::{DeviceColumns, Text};
use crate::incident::rows::{DeviceRow, is_key};

/// Whether this is a device with an id of Defender's. Sentinel and others name devices without one; they stay evidence.
pub(super) fn has_id(properties: &Properties<'_>) -> bool {
    let id: Option<Text<'_>> = properties.value("mdeDeviceId", &mut Vec::new());
    properties.type_name() == "deviceEvidence" && id.is_some_and(|id| !id.is_empty())
}

/// `None` without a usable id.
pub(super) fn row<'a>(
    properties: &Properties<'a>,
    last_seen: DateTime<Utc>,
    mistyped: &mut Vec<&'static str>,
) -> Option<DeviceRow<'a>> {
    let Some(device_id) =
        properties.value("mdeDeviceId", mistyped).filter(|id: &Text<'_>| is_key(id))
    else {
        mistyped.push("mdeDeviceId");
        return None;
    };
    let vm_metadata = properties.get("vmMetadata").filter(|raw| raw.get() != "null");
    let mut columns = DeviceColumns {
        aad_device_id: properties.value("azureAdDeviceId", mistyped),
        device_dns_name: properties.value("deviceDnsName", mistyped),
        os_platform: properties.value("osPlatform", mistyped),
        version: properties.value("version", mistyped),
        os_processor: None,
        os_build: properties.value("osBuild", mistyped),
        health_status: properties.value("healthStatus", mistyped),
        risk_score: properties.value("riskScore", mistyped),
        rbac_group_id: properties.value("rbacGroupId", mistyped),
        rbac_group_name: properties.value("rbacGroupName", mistyped),
        first_seen: properties.value("firstSeenDateTime", mistyped),
        tags: properties.value("tags", mistyped),
        defender_av_status: properties.value("defenderAvStatus", mistyped),
        onboarding_status: properties.value("onboardingStatus", mistyped),
        vm_metadata: vm_metadata.map(|raw| Cow::Borrowed(raw.get())),
    };
    for (column, key) in [
        (&mut columns.health_status, "healthStatus"),
        (&mut columns.risk_score, "riskScore"),
        (&mut columns.defender_av_status, "defenderAvStatus"),
        (&mut columns.onboarding_status, "onboardingStatus"),
    ] {
        convert(column, Enumeration::Regular, key, mistyped);
    }
    Some(DeviceRow { device_id, last_seen, columns })
}
