//! Watches the applications' credentials for expiry and replaced files.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::entra::Tenant;
use crate::entra::credential::{CredentialId, Fingerprint};
use crate::entra::expiry::{CredentialExpiry, expiries, now};
use crate::sync::engine::SyncEngine;

const EXPIRY: &str = "incident_sync_credential_expiry_timestamp_seconds";
/// Limits the time until a replaced file is noticed when no token is requested.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Logs credentials that expire soon, and retries parked tenants when the files of their credential have changed.
pub async fn watch(engine: Arc<SyncEngine>, wake: Arc<Notify>) {
    let mut logged = HashMap::new();
    let mut fingerprints = HashMap::new();
    let mut tick = tokio::time::interval(POLL_INTERVAL);
    loop {
        tick.tick().await;
        let settings = engine.settings();
        let expiries = expiries(settings.tenants.values()).await;
        for expiry in &expiries {
            log_expiry(expiry, now(), &mut logged);
        }
        fingerprints
            .keys()
            .filter(|credential_id| {
                expiries.iter().all(|expiry| expiry.credential_id != **credential_id)
            })
            .for_each(clear_metrics);
        let changed = changed(settings.tenants.values(), &expiries, &mut fingerprints);
        if changed.is_empty() {
            continue;
        }
        match engine.services().store.clear_parking(&changed).await {
            Ok(()) => wake.notify_one(),
            Err(error) => {
                tracing::warn!(error = %error, "Cannot unpark tenants whose credential changed; they are retried on schedule");
            }
        }
    }
}

/// Resets the metrics of a credential that was removed from the configuration: the recorder keeps every series, which would
/// raise alerts.
fn clear_metrics(credential_id: &CredentialId) {
    credential_id.set("incident_sync_credential_refused", 0.0);
    credential_id.set("incident_sync_credential_in_use", 0.0);
    credential_id.set("incident_sync_credential_files_unusable", 0.0);
    credential_id.set(EXPIRY, f64::NAN);
}

/// Logs each stage once.
fn log_expiry(
    expiry: &CredentialExpiry,
    now: DateTime<Utc>,
    logged: &mut HashMap<CredentialId, i64>,
) {
    let credential_id = &expiry.credential_id;
    credential_id
        .set("incident_sync_credential_files_unusable", f64::from(expiry.problem.is_some()));
    if let Some(end) = expiry.expires {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
        credential_id.set(EXPIRY, end.timestamp() as f64);
    } else if expiry.is_renewed {
        // The previous secret's expiry must not raise an alert.
        credential_id.set(EXPIRY, f64::NAN);
    }
    let Some(stage) = expiry.stage(now) else {
        logged.remove(credential_id);
        return;
    };
    if logged.insert(credential_id.clone(), stage) == Some(stage) {
        return;
    }
    let CredentialId { client_id: app, name: credential, owner } = credential_id;
    let kind = expiry.kind;
    let what = expiry.describe(now);
    if stage == 0 {
        tracing::error!(
            owner = "operator",
            app,
            credential,
            tenant.name = owner,
            kind,
            "A credential has expired: {what}"
        );
    } else {
        tracing::warn!(
            owner = "operator",
            app,
            credential,
            tenant.name = owner,
            kind,
            days = stage,
            "A credential expires soon: {what}"
        );
    }
}

/// The tenants with a credential whose files changed since the last poll.
fn changed<'a>(
    tenants: impl IntoIterator<Item = &'a Arc<Tenant>>,
    expiries: &[CredentialExpiry],
    fingerprints: &mut HashMap<CredentialId, Fingerprint>,
) -> Vec<Uuid> {
    let current: HashMap<CredentialId, Fingerprint> =
        expiries.iter().map(|expiry| (expiry.credential_id.clone(), expiry.fingerprint)).collect();
    let before = std::mem::replace(fingerprints, current);
    let is_new = |(credential_id, now): &(&CredentialId, &Fingerprint)| {
        before.get(credential_id).is_some_and(|before| before != *now)
    };
    let new: HashSet<&CredentialId> =
        fingerprints.iter().filter(is_new).map(|(credential_id, _)| credential_id).collect();
    let has_new = |tenant: &&Arc<Tenant>| {
        tenant.app.credentials().any(|(credential_id, _)| new.contains(&credential_id))
    };
    tenants.into_iter().filter(has_new).map(|tenant| tenant.id.0).collect()
}
