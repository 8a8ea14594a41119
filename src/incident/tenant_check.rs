//! Whether an incident is the tenant's own.

use std::borrow::Cow;

use url::form_urlencoded;
use uuid::Uuid;

use crate::error::{SyncError, shown};
use crate::tenant::TenantId;

/// Whatever an incident and its alerts name their tenant by.
#[derive(Debug, Default)]
pub struct NamedTenants<'a> {
    /// Links to Microsoft's portal.
    pub links: Vec<Cow<'a, str>>,
    /// Tenant ids. Text that is no GUID names no tenant.
    pub ids: Vec<Cow<'a, str>>,
}

impl NamedTenants<'_> {
    /// Fails if one of them is another tenant.
    pub fn check(&self, tenant: TenantId, incident_id: i64) -> Result<(), SyncError> {
        for link in &self.links {
            check_tenant(tenant, incident_id, Some(link))?;
        }
        let is_foreign =
            |id: &&Cow<'_, str>| Uuid::try_parse(id.trim()).is_ok_and(|id| id != tenant.0);
        self.ids.iter().find(is_foreign).map_or(Ok(()), |id| {
            Err(SyncError::ForeignIncident { incident_id, uri_tid: shown(id) })
        })
    }
}

/// `incidentUri` carries `?tid=<tenant>` in real payloads (Swimlane and Elastic fixtures). Each parameter that names a tenant is
/// looked at, in any case and wherever it stands: a link may be relative, or no URL at all.
fn check_tenant(tenant: TenantId, incident_id: i64, uri: Option<&str>) -> Result<(), SyncError> {
    let parameters = uri.unwrap_or_default().split(['?', '&', '#', ';']).skip(1);
    let named = parameters.flat_map(|parameter| form_urlencoded::parse(parameter.as_bytes())).find(
        |(key, value)| {
            let names_tenant =
                TENANT_PARAMETERS.iter().any(|name| key.trim().eq_ignore_ascii_case(name));
            names_tenant && !value.trim().eq_ignore_ascii_case(&tenant.to_string())
        },
    );
    named.map_or(Ok(()), |(_, tid)| {
        Err(SyncError::ForeignIncident { incident_id, uri_tid: shown(&tid) })
    })
}

/// Portals of Microsoft's name the tenant by one of these.
const TENANT_PARAMETERS: [&str; 3] = ["tid", "tenantId", "tenant_id"];
