//! Watches the applications' credentials: when they end, and whether their files were replaced.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::doctor::{CheckResult, Finding, Group};
use crate::entra::credential::{Credential, CredentialId, Fingerprint};
use crate::sync::engine::SyncEngine;
use crate::tenant::Tenant;

const EXPIRY: &str = "incident_sync_credential_expiry_timestamp_seconds";
/// How soon a replaced file is noticed where no token is asked for.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Credentials whose files are read at the same time.
const CONCURRENT_READS: usize = 16;
/// Days before the end at which a warning is logged.
const WARNINGS: [i64; 3] = [1, 7, 30];

/// When a credential ends.
#[derive(Debug, Clone)]
pub struct CredentialExpiry {
    /// Which one.
    pub credential_id: CredentialId,
    /// What kind of credential.
    pub kind: &'static str,
    /// The end; `None` if it has none or it is unknown.
    pub expires: Option<DateTime<Utc>>,
    /// The configured end is that of the previous secret.
    pub is_renewed: bool,
    /// Why its files cannot be used; the previous content stays in use.
    pub problem: Option<String>,
    /// Changes when its files are replaced.
    pub fingerprint: Fingerprint,
}

impl CredentialExpiry {
    /// How near it is: the smallest number of days among 30, 7 and 1 that is not less than what is left, 0 after the end;
    /// `None` while there is time.
    pub fn stage(&self, now: DateTime<Utc>) -> Option<i64> {
        let left = self.expires?.signed_duration_since(now);
        if left.num_seconds() <= 0 {
            return Some(0);
        }
        WARNINGS.into_iter().find(|days| left <= TimeDelta::days(*days))
    }

    /// In words, for people.
    pub fn describe(&self, now: DateTime<Utc>) -> String {
        let Self { credential_id, kind, .. } = self;
        let end = match self.expires {
            None if self.is_renewed => {
                "its file was replaced, expiry unknown; set client_secret_expires and reload"
                    .to_owned()
            }
            None if *kind == "client secret" => {
                "expiry unknown; set client_secret_expires to get warnings".to_owned()
            }
            None => "renews itself".to_owned(),
            Some(end) => {
                let (days, last) =
                    (end.signed_duration_since(now).num_days(), end - TimeDelta::seconds(1));
                let last = last.format("%Y-%m-%d");
                if end <= now {
                    format!("expired on {last}")
                } else {
                    format!("expires on {last}, in {days} days")
                }
            }
        };
        let problem =
            self.problem.as_ref().map(|problem| format!("; cannot be re-read: {problem}"));
        format!("{credential_id}: {kind}, {end}{}", problem.unwrap_or_default())
    }

    /// For the doctor.
    pub fn finding(&self, now: DateTime<Utc>) -> Finding {
        let told = self.describe(now);
        let (result, say) = match self.stage(now) {
            Some(0) => (CheckResult::Failure, told),
            Some(_) => (CheckResult::Warning, format!("{told}; renew it")),
            None if self.problem.is_some() => (CheckResult::Warning, told),
            None => (CheckResult::Ok, told),
        };
        let who_must_act = (result != CheckResult::Ok).then_some("operator");
        let about =
            self.credential_id.owner.as_ref().unwrap_or(&self.credential_id.client_id).clone();
        Finding {
            group: Group::Credentials,
            check: "expiry",
            about,
            result,
            who_must_act,
            advice: say,
            error: None,
        }
    }
}

/// The machine's clock: certificates and secrets end by the calendar.
pub fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

/// The credentials of these tenants' applications, each once, by their files as they are now.
pub async fn expiries<'a>(
    tenants: impl IntoIterator<Item = &'a Arc<Tenant>>,
) -> Vec<CredentialExpiry> {
    let mut found = BTreeMap::new();
    for tenant in tenants.into_iter().filter(|tenant| tenant.enabled) {
        for (credential_id, credential) in tenant.app.credentials() {
            found.entry(credential_id).or_insert_with(|| Arc::clone(credential));
        }
    }
    let looks =
        found.into_iter().map(|(credential_id, credential)| expiry(credential_id, credential));
    futures::stream::iter(looks).buffered(CONCURRENT_READS).collect().await
}

async fn expiry(credential_id: CredentialId, credential: Arc<Credential>) -> CredentialExpiry {
    let (_, fingerprint) = credential.client_auth(&credential_id).await;
    let (kind, expires, problem) = (credential.kind(), credential.expires(), credential.problem());
    let is_renewed = credential.is_expiry_outdated();
    CredentialExpiry { credential_id, kind, expires, is_renewed, problem, fingerprint }
}

/// The ends of the credentials by which a tenant is read, as `status --json` shows them.
pub fn of_tenant(tenants: &[Arc<Tenant>], id: Uuid, expiries: &[CredentialExpiry]) -> Value {
    let tenant = tenants.iter().filter(|tenant| tenant.id.0 == id && tenant.enabled);
    let credential_ids: Vec<CredentialId> = tenant
        .flat_map(|tenant| tenant.app.credentials())
        .map(|(credential_id, _)| credential_id)
        .collect();
    let told = |expiry: &CredentialExpiry| {
        let CredentialExpiry { credential_id, kind, expires, problem, .. } = expiry;
        json!({ "name": credential_id.name, "kind": kind, "expires": expires, "problem": problem })
    };
    expiries
        .iter()
        .filter(|expiry| credential_ids.contains(&expiry.credential_id))
        .map(told)
        .collect()
}

/// Tells what ends soon, and gives tenants that wait for a credential another chance when its files have changed.
pub async fn watch(engine: Arc<SyncEngine>, wake: Arc<Notify>) {
    let mut told = HashMap::new();
    let mut seen = HashMap::new();
    let mut tick = tokio::time::interval(POLL_INTERVAL);
    loop {
        tick.tick().await;
        let settings = engine.settings();
        let expiries = expiries(settings.tenants.values()).await;
        for expiry in &expiries {
            log_expiry(expiry, now(), &mut told);
        }
        seen.keys()
            .filter(|credential_id| {
                expiries.iter().all(|expiry| expiry.credential_id != **credential_id)
            })
            .for_each(clear_metrics);
        let changed = changed(settings.tenants.values(), &expiries, &mut seen);
        if changed.is_empty() {
            continue;
        }
        match engine.services().store.clear_parking(&changed).await {
            Ok(()) => wake.notify_one(),
            Err(error) => {
                tracing::warn!(error = %error, "tenants whose credential has changed are tried again at their usual time");
            }
        }
    }
}

/// A credential that is configured no more alarms nobody; the recorder forgets no series.
fn clear_metrics(credential_id: &CredentialId) {
    credential_id.set("incident_sync_credential_refused", 0.0);
    credential_id.set("incident_sync_credential_in_use", 0.0);
    credential_id.set("incident_sync_credential_files_unusable", 0.0);
    credential_id.set(EXPIRY, f64::NAN);
}

/// Once for each stage, so that it is a line in the log and not a flood.
fn log_expiry(
    expiry: &CredentialExpiry,
    now: DateTime<Utc>,
    told: &mut HashMap<CredentialId, i64>,
) {
    let credential_id = &expiry.credential_id;
    credential_id
        .set("incident_sync_credential_files_unusable", f64::from(expiry.problem.is_some()));
    if let Some(end) = expiry.expires {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
        credential_id.set(EXPIRY, end.timestamp() as f64);
    } else if expiry.is_renewed {
        // No alert may go by the end of the secret before.
        credential_id.set(EXPIRY, f64::NAN);
    }
    let Some(stage) = expiry.stage(now) else {
        told.remove(credential_id);
        return;
    };
    if told.insert(credential_id.clone(), stage) == Some(stage) {
        return;
    }
    let (CredentialId { client_id: app, name: credential, owner }, kind) =
        (credential_id, expiry.kind);
    let what = expiry.describe(now);
    if stage == 0 {
        tracing::error!(
            owner = "operator",
            app,
            credential,
            tenant.name = owner,
            kind,
            "a credential has expired: {what}"
        );
    } else {
        tracing::warn!(
            owner = "operator",
            app,
            credential,
            tenant.name = owner,
            kind,
            days = stage,
            "a credential ends soon: {what}"
        );
    }
}

/// The tenants that have a credential which is not that of the last look.
fn changed<'a>(
    tenants: impl IntoIterator<Item = &'a Arc<Tenant>>,
    expiries: &[CredentialExpiry],
    seen: &mut HashMap<CredentialId, Fingerprint>,
) -> Vec<Uuid> {
    let looked: HashMap<CredentialId, Fingerprint> =
        expiries.iter().map(|expiry| (expiry.credential_id.clone(), expiry.fingerprint)).collect();
    let before = std::mem::replace(seen, looked);
    let is_new = |(credential_id, now): &(&CredentialId, &Fingerprint)| {
        before.get(credential_id).is_some_and(|before| before != *now)
    };
    let new: HashSet<&CredentialId> =
        seen.iter().filter(is_new).map(|(credential_id, _)| credential_id).collect();
    let has_new = |tenant: &&Arc<Tenant>| {
        tenant.app.credentials().any(|(credential_id, _)| new.contains(&credential_id))
    };
    tenants.into_iter().filter(has_new).map(|tenant| tenant.id.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_warns_30_7_and_1_days_ahead() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at = |days: f64| {
            #[expect(clippy::cast_possible_truncation, reason = "a few days in seconds")]
            let expires = now + TimeDelta::seconds((days * 86_400.0) as i64);
            CredentialExpiry {
                credential_id: CredentialId { client_id: "a".into(), name: "first", owner: None },
                kind: "certificate",
                expires: Some(expires),
                is_renewed: false,
                problem: None,
                fingerprint: [0; 32],
            }
        };
        let stages =
            [(31.0, None), (30.0, Some(30)), (7.1, Some(30)), (7.0, Some(7)), (1.5, Some(7))];
        for (days, stage) in stages.into_iter().chain([
            (1.0, Some(1)),
            (0.1, Some(1)),
            (0.0, Some(0)),
            (-3.0, Some(0)),
        ]) {
            assert_eq!(at(days).stage(now), stage, "{days}");
        }
        assert_eq!(CredentialExpiry { expires: None, ..at(0.0) }.stage(now), None);
        assert_eq!(at(31.0).finding(now).result, CheckResult::Ok);
        assert_eq!(at(6.0).finding(now).result, CheckResult::Warning);
        assert_eq!(at(-1.0).finding(now).result, CheckResult::Failure);
        let unusable = CredentialExpiry { problem: Some("app.x: gone".into()), ..at(31.0) };
        assert_eq!(unusable.finding(now).result, CheckResult::Warning);
        assert!(unusable.describe(now).ends_with("in 31 days; cannot be re-read: app.x: gone"));
        assert!(at(6.0).describe(now).contains("in 6 days"), "{}", at(6.0).describe(now));
    }
}
