//! A customer tenant together with the application that reads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::credential::App;
use crate::tenant::{Endpoints, Retention, Source, TenantId};

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
    /// The same for the other source: for a comparison, and for a trial before a move.
    pub other_endpoints: Endpoints,
    /// The application that reads it.
    pub app: Arc<App>,
    pub retention: Retention,
}

impl Tenant {
    /// A tenant whose configuration consists of id and name, with both sources at the same addresses.
    pub fn with_defaults(id: TenantId, name: &str, endpoints: Endpoints, app: Arc<App>) -> Self {
        let other_endpoints = Endpoints { source: endpoints.source.other(), ..endpoints.clone() };
        Self {
            id,
            name: name.to_owned(),
            labels: BTreeMap::new(),
            enabled: true,
            endpoints,
            other_endpoints,
            app,
            retention: Retention::default(),
        }
    }

    /// The API that the configuration names.
    pub fn source(&self) -> Source {
        self.endpoints.source
    }

    /// This tenant with another source.
    #[must_use]
    pub fn read_from(&self, source: Source) -> Self {
        if source == self.source() {
            return self.clone();
        }
        Self {
            endpoints: self.other_endpoints.clone(),
            other_endpoints: self.endpoints.clone(),
            ..self.clone()
        }
    }
}
