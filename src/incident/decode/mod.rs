//! From the API's JSON to rows. Each source has a file that knows its keys.

use crate::error::SyncError;
use crate::incident::raw::RawIncident;
use crate::incident::rows::{PageRows, RejectedRow};
use crate::tenant::{Source, TenantId};

/// The types of entities that both sources have, in lower case: the APIs write some in different cases.
pub const SHARED_ENTITY_TYPES: [&str; 10] = [
    "user",
    "ip",
    "url",
    "file",
    "process",
    "mailbox",
    "mailmessage",
    "mailcluster",
    "registry",
    "securitygroup",
];

mod defender;
mod graph;
pub mod key;
mod lenient;

/// Decodes the given incidents of `tenant` into rows. An incident that names another tenant fails them all: the whole
/// answer is then suspect.
pub fn page_rows<'a>(
    tenant: TenantId,
    source: Source,
    elements: &'a [RawIncident<'_>],
) -> Result<PageRows<'a>, SyncError> {
    let mut incidents = Vec::with_capacity(elements.len());
    let mut rejected = Vec::new();
    for element in elements {
        let decoded = match source {
            Source::Defender => defender::decode(element),
            Source::Graph => graph::decode(element),
        };
        match decoded {
            Ok(incident) => {
                incident.named.check(tenant, incident.row.incident_id)?;
                incidents.push(incident);
            }
            Err(reason) => {
                // The quarantine is the tenant's as well.
                let incident_id = element.head.incident_id.unwrap_or_default();
                key::named_tenants(source, &element.text).check(tenant, incident_id)?;
                rejected.push(RejectedRow::new(element, reason));
            }
        }
    }
    Ok(PageRows::new(source, incidents, rejected))
}

/// Decodes alerts that Graph listed without their incidents (`alerts_v2`). Each still has to be tied to a version of its
/// incident. What does not decode comes with its incident, so it is counted only.
pub fn alert_rows<'a>(
    tenant: TenantId,
    elements: &'a [RawIncident<'_>],
) -> Result<PageRows<'a>, SyncError> {
    let (mut alerts, mut mistyped, mut waiting) = (Vec::new(), Vec::new(), 0);
    for element in elements {
        let Ok(mut listed) = graph::decode_alert(element) else {
            mistyped.push("alert");
            continue;
        };
        let incident_id = listed.alert.as_ref().map_or(0, |alert| alert.row.incident_id);
        listed.named.check(tenant, incident_id)?;
        mistyped.append(&mut listed.mistyped);
        waiting += usize::from(listed.alert.is_none());
        alerts.extend(listed.alert);
    }
    Ok(PageRows::of_alerts(alerts, mistyped, waiting))
}

/// The incident that another one was merged into. No incident has the number 0, which stands for none.
fn merge_target(redirect_incident_id: Option<i64>) -> Option<i64> {
    redirect_incident_id.filter(|id| *id != 0)
}

#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod tests;
