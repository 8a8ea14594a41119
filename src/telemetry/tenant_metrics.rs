//! The metrics of tenants.

use crate::store::status::Freshness;

/// Age of the oldest transaction that holds `reporting.incident_changes` back.
pub(crate) const FEED_DELAY: (&str, &str) = (
    "incident_sync_change_feed_delay_seconds",
    "Age of the oldest transaction that holds the change feed back, or of the oldest change not shown yet; check names the transaction",
);

/// A number by tenant that comes from the database.
pub(crate) struct TenantMetric {
    pub(crate) name: &'static str,
    pub(crate) kind: MetricKind,
    pub(crate) help: &'static str,
    pub(crate) value: fn(&Freshness) -> f64,
}

/// Whether a number can fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricKind {
    Gauge,
    Counter,
}

/// Not in the recorder, which would show a tenant that left the configuration, or was renamed, for ever as it was last.
pub(crate) const TENANT_METRICS: [TenantMetric; 6] = [
    TenantMetric {
        name: "incident_sync_tenant_freshness_seconds",
        kind: MetricKind::Gauge,
        help: "Seconds since everything up to then was stored",
        value: |tenant| tenant.freshness_seconds,
    },
    TenantMetric {
        name: "incident_sync_tenant_up",
        kind: MetricKind::Gauge,
        help: "1 when the tenant's last run ended well",
        value: |tenant| f64::from(tenant.is_up),
    },
    TenantMetric {
        name: "incident_sync_tenant_backfilled",
        kind: MetricKind::Gauge,
        help: "1 when the tenant's first synchronisation is complete",
        value: |tenant| f64::from(tenant.is_backfilled),
    },
    TenantMetric {
        name: "incident_sync_rejected_payloads",
        kind: MetricKind::Gauge,
        help: "Incidents in quarantine; should be 0",
        value: |tenant| tenant.rejected as f64,
    },
    TenantMetric {
        name: "incident_sync_found_late_total",
        kind: MetricKind::Counter,
        help: "Incident versions that no poll had found and a later reading did; should stay 0",
        value: |tenant| tenant.found_late as f64,
    },
    TenantMetric {
        name: "incident_sync_gaps",
        kind: MetricKind::Gauge,
        help: "Ranges of lastUpdateTime that the API fails to serve; should be 0",
        value: |tenant| tenant.gaps as f64,
    },
];
