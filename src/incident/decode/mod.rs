//! From the API's JSON to rows. Each source has a file that knows its keys.

use crate::error::SyncError;
use crate::incident::raw::RawIncident;
use crate::incident::rows::{PageRows, RejectedRow};
use crate::incident::tenant_check::check_tenant;
use crate::tenant::TenantId;

mod defender;
pub mod key;
mod lenient;

/// Decodes the given incidents of `tenant` into rows. An incident that names another tenant fails them all: the whole
/// answer is then suspect.
pub fn page_rows<'a>(
    tenant: TenantId,
    elements: &'a [RawIncident<'_>],
) -> Result<PageRows<'a>, SyncError> {
    let mut incidents = Vec::with_capacity(elements.len());
    let mut rejected = Vec::new();
    for element in elements {
        match defender::decode(element) {
            Ok(incident) => {
                let row = &incident.row;
                check_tenant(tenant, row.incident_id, row.columns.incident_uri.as_deref())?;
                incidents.push(incident);
            }
            Err(reason) => {
                // The quarantine is the tenant's as well.
                for uri in key::incident_uris(&element.text) {
                    check_tenant(tenant, element.head.incident_id.unwrap_or_default(), Some(&uri))?;
                }
                rejected.push(RejectedRow::new(element, reason));
            }
        }
    }
    Ok(PageRows::new(incidents, rejected))
}

#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod tests;
