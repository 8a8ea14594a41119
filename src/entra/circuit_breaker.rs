//! The circuit breaker of credentials: one probe of a refused credential instead of a request for each tenant.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::Tenant;
use super::credential::{Credential, CredentialId, Fingerprint};
use crate::error::{BREAKER_PROBE, IDENTITY_PROBE, SyncError};
use crate::tenant::TenantId;

/// The longest time that a hanging token request delays the first request of other tenants.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    credentials: Mutex<HashMap<CredentialId, CredentialState>>,
    /// The name of the credential that last obtained a token, by the credentials of an app.
    in_use: Mutex<HashMap<Vec<CredentialId>, &'static str>>,
}

#[derive(Debug, Default)]
struct CredentialState {
    /// Set by a token, cleared by a refusal.
    accepted: Option<Fingerprint>,
    refusals: Option<Refusals>,
    /// Locked during a request with a credential that was not accepted yet.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The tenants for which Entra refused a credential.
#[derive(Debug)]
struct Refusals {
    /// A credential with another fingerprint may be accepted.
    fingerprint: Fingerprint,
    tenants: HashSet<TenantId>,
    error: SyncError,
    /// `None` allows a probe immediately.
    last_probe: Option<Instant>,
}

impl CircuitBreaker {
    fn lock(&self) -> MutexGuard<'_, HashMap<CredentialId, CredentialState>> {
        self.credentials.lock()
    }

    /// Permits an immediate probe of each refused credential. The refusals are kept, so that the next one is not logged as
    /// new.
    pub(super) fn probe_refused(&self) {
        for refusals in self.lock().values_mut().filter_map(|state| state.refusals.as_mut()) {
            refusals.last_probe = None;
        }
    }

    /// Waits a short time for the first request with a credential that was not accepted yet. Otherwise the requests of all
    /// running tenants would be refused before the second refusal is known.
    pub(super) async fn turn(
        &self,
        credential_id: &CredentialId,
        fingerprint: &Fingerprint,
    ) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        let turn = {
            let mut credentials = self.lock();
            let state = credentials.entry(credential_id.clone()).or_default();
            if state.accepted.as_ref() == Some(fingerprint) {
                return None;
            }
            Arc::clone(&state.turn)
        };
        tokio::time::timeout(TURN_TIMEOUT, turn.lock_owned()).await.ok()
    }

    /// Fails for a refused credential, except for one probe per interval. Two tenants with a refusal stand for all. For the
    /// managed identity endpoint one failure is enough, and the interval is short.
    pub(super) fn check(
        &self,
        credential_id: &CredentialId,
        fingerprint: &Fingerprint,
    ) -> Result<(), SyncError> {
        let mut credentials = self.lock();
        let refusals = credentials.get_mut(credential_id).and_then(|state| state.refusals.as_mut());
        let Some(refusals) = refusals.filter(|refusals| refusals.fingerprint == *fingerprint)
        else {
            return Ok(());
        };
        let is_transient = refusals.error.is_transient();
        let (interval, threshold) =
            if is_transient { (IDENTITY_PROBE, 1) } else { (BREAKER_PROBE, 2) };
        let is_probe_due = refusals.last_probe.is_none_or(|last| last.elapsed() >= interval);
        if refusals.tenants.len() < threshold || is_probe_due {
            refusals.last_probe = Some(Instant::now());
            return Ok(());
        }
        let code = refusals.error.shared_credential_code().unwrap_or_default();
        Err(if is_transient {
            refusals.error.clone()
        } else {
            SyncError::CredentialBreaker { code }
        })
    }

    /// Records a refusal. Logs the first one of a credential, and one of another class.
    pub(super) fn record_refusal(
        &self,
        tenant: &Tenant,
        credential_id: &CredentialId,
        fingerprint: Fingerprint,
        credential: &Credential,
        error: &SyncError,
    ) {
        credential_id.set("incident_sync_credential_refused", 1.0);
        if !self.update_refusals(tenant, credential_id, fingerprint, error) {
            return;
        }
        let diagnosis = error.diagnosis();
        let owner = owner_label(credential_id);
        let kind = credential.kind();
        let what = if error.is_transient() { "is temporarily unusable" } else { "was refused" };
        let name = &credential_id.name;
        tracing::error!(
            app = credential_id.client_id, credential = name, tenant.name = credential_id.owner, kind,
            class = diagnosis.class.as_str(), owner = diagnosis.owner.as_str(), advice = &*diagnosis.advice, error = %error,
            "{owner} credential {what}: {name} ({kind})"
        );
    }

    /// Returns whether the refusal is to be logged.
    fn update_refusals(
        &self,
        tenant: &Tenant,
        credential_id: &CredentialId,
        fingerprint: Fingerprint,
        error: &SyncError,
    ) -> bool {
        let mut credentials = self.lock();
        let state = credentials.entry(credential_id.clone()).or_default();
        state.accepted = None;
        let earlier = state.refusals.take().filter(|refusals| refusals.fingerprint == fingerprint);
        let is_new = earlier
            .as_ref()
            .is_none_or(|refusals| refusals.error.diagnosis().class != error.diagnosis().class);
        let last_probe =
            earlier.as_ref().map_or(Some(Instant::now()), |earlier| earlier.last_probe);
        let mut tenants = earlier.map(|refusals| refusals.tenants).unwrap_or_default();
        tenants.insert(tenant.id);
        state.refusals = Some(Refusals { fingerprint, tenants, error: error.clone(), last_probe });
        is_new
    }

    /// Records that this credential obtained a token. Logs a change.
    pub(super) fn record_success(
        &self,
        tenant: &Tenant,
        credential_id: &CredentialId,
        fingerprint: Fingerprint,
        credential: &Credential,
    ) {
        let name = credential_id.name;
        credential_id.set("incident_sync_credential_refused", 0.0);
        let credential_ids: Vec<CredentialId> =
            tenant.app.credentials().map(|(credential_id, _)| credential_id).collect();
        for other in &credential_ids {
            other.set("incident_sync_credential_in_use", f64::from(other == credential_id));
        }
        let was_refused = {
            let mut credentials = self.lock();
            let state = credentials.entry(credential_id.clone()).or_default();
            state.accepted = Some(fingerprint);
            state.refusals.take().is_some()
        };
        let mut in_use = self.in_use.lock();
        let before = in_use.insert(credential_ids, name);
        if before != Some(name) || was_refused {
            let owner = owner_label(credential_id);
            tracing::info!(
                app = credential_id.client_id,
                credential = name,
                tenant.name = credential_id.owner,
                kind = credential.kind(),
                "Using {owner} credential for tokens: {name}"
            );
        }
    }
}

fn owner_label(credential_id: &CredentialId) -> &'static str {
    if credential_id.owner.is_some() { "the tenant's own" } else { "the application's" }
}
