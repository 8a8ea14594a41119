//! A customer tenant together with the application that reads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::credential::App;
use crate::tenant::{Endpoints, Retention, TenantId};

/// A customer tenant as configured.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: TenantId,
    /// The operator's name for the customer; a metric label and a column, never a key.
    pub name: String,
    /// Free labels for reporting. Customers' readers do not see those whose keys begin with [`crate::tenant::INTERNAL_LABEL`].
    pub labels: BTreeMap<String, String>,
    /// Whether the tenant is polled at all.
    pub enabled: bool,
    /// For its token and its incidents.
    pub endpoints: Endpoints,
    /// The application that reads it.
    pub app: Arc<App>,
    pub retention: Retention,
}

impl Tenant {
    /// A tenant whose configuration consists of id and name.
    pub fn with_defaults(id: TenantId, name: &str, endpoints: Endpoints, app: Arc<App>) -> Self {
        Self {
            id,
            name: name.to_owned(),
            labels: BTreeMap::new(),
            enabled: true,
            endpoints,
            app,
            retention: Retention::default(),
        }
    }
}
