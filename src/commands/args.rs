//! Arguments that several commands share.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::Args;

use crate::commands::exit::Failure;
use crate::config::Config;
use crate::entra::Tenant;

#[derive(Debug, Args)]
pub(crate) struct TenantFilter {
    /// Limit the command to this tenant, by name or id. Repeatable.
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
}

impl TenantFilter {
    /// The named tenants, or all enabled ones.
    pub(crate) fn select(&self, config: &Config) -> Result<Vec<Arc<Tenant>>, Failure> {
        if self.tenants.is_empty() {
            return Ok(config.tenants.iter().filter(|tenant| tenant.enabled).cloned().collect());
        }
        let find = |name: &String| {
            let found = config.tenant(name).filter(|tenant| tenant.enabled).cloned();
            found.ok_or_else(|| {
                Failure::Configuration(format!(
                    "no enabled tenant is named {name}. List the tenants with: incident-sync tenant list"
                ))
            })
        };
        self.tenants.iter().map(find).collect()
    }
}

/// A date is midnight UTC.
pub(crate) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let date = || text.parse::<NaiveDate>().map(|date| date.and_time(NaiveTime::MIN).and_utc());
    text.parse::<DateTime<Utc>>().or_else(|_| date()).map_err(|_| {
        "expected a date such as 2026-11-01 (midnight UTC) or a time such as 2026-11-01T08:30:00Z"
            .to_owned()
    })
}
