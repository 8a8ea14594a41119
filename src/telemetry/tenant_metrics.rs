//! The metrics of tenants.

use crate::store::status::Freshness;

/// Age of the oldest transaction that delays `reporting.incident_changes`.
pub(crate) const FEED_DELAY: (&str, &str) = (
    "incident_sync_change_feed_delay_seconds",
    "Age of the oldest transaction that delays the change feed, or of the oldest hidden change; incident-sync check names the transaction",
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

/// Not in the recorder, which would keep series of removed or renamed tenants forever.
pub(crate) const TENANT_METRICS: [TenantMetric; 7] = [
    TenantMetric {
        name: "incident_sync_tenant_freshness_seconds",
        kind: MetricKind::Gauge,
        help: "Age of the data in seconds",
        value: |tenant| tenant.freshness_seconds,
    },
    TenantMetric {
        name: "incident_sync_tenant_up",
        kind: MetricKind::Gauge,
        help: "1 when the tenant's last run succeeded",
        value: |tenant| f64::from(tenant.is_up),
    },
    TenantMetric {
        name: "incident_sync_tenant_backfilled",
        kind: MetricKind::Gauge,
        help: "1 when the tenant's first sync is complete",
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
        help: "Incident versions that polls missed and a later run found; should stay 0",
        value: |tenant| tenant.found_late as f64,
    },
    TenantMetric {
        name: "incident_sync_lateness_seconds",
        kind: MetricKind::Gauge,
        help: "How late the API was seen to list changes in the last two days; polls reach back that far, up to two hours",
        value: |tenant| f64::from(tenant.lateness_seconds),
    },
    TenantMetric {
        name: "incident_sync_gaps",
        kind: MetricKind::Gauge,
        help: "Gaps: ranges of lastUpdateTime that the API fails to serve; should be 0",
        value: |tenant| tenant.gaps as f64,
    },
];
