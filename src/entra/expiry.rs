//! The expiry of the applications' credentials.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Tenant;
use crate::entra::credential::{Credential, CredentialId, Fingerprint};

/// The number of credentials whose files are read concurrently.
const CONCURRENT_READS: usize = 16;
/// Days before the expiry at which a warning is logged.
const WARNINGS: [i64; 3] = [1, 7, 30];

/// The expiry of a credential.
#[derive(Debug, Clone)]
pub struct CredentialExpiry {
    pub credential_id: CredentialId,
    /// Such as `certificate`, for people.
    pub kind: &'static str,
    /// `None` if it does not expire or the expiry is unknown.
    pub expires: Option<DateTime<Utc>>,
    /// Whether the configured expiry is that of the previous secret.
    pub is_renewed: bool,
    /// Why its files cannot be used; the last valid version stays in use.
    pub problem: Option<String>,
    /// Changes when the files are replaced.
    pub fingerprint: Fingerprint,
}

impl CredentialExpiry {
    /// The smallest of 30, 7 and 1 days that is not less than the remaining time; 0 after the expiry; `None` if more than 30
    /// days remain.
    pub fn stage(&self, now: DateTime<Utc>) -> Option<i64> {
        let left = self.expires?.signed_duration_since(now);
        if left.num_seconds() <= 0 {
            return Some(0);
        }
        WARNINGS.into_iter().find(|days| left <= TimeDelta::days(*days))
    }

    /// The text in `check`, `status`, the log and the status page.
    pub fn describe(&self, now: DateTime<Utc>) -> String {
        let Self { credential_id, kind, .. } = self;
        let end = match self.expires {
            None if self.is_renewed => {
                "expiry unknown because its file was replaced; set client_secret_expires and reload"
                    .to_owned()
            }
            None if *kind == "client secret" => {
                "expiry unknown; set client_secret_expires to get warnings".to_owned()
            }
            None => "renewed automatically".to_owned(),
            Some(end) => {
                let days = end.signed_duration_since(now).num_days();
                let last = (end - TimeDelta::seconds(1)).format("%Y-%m-%d");
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
}

/// The machine's clock, which determines the expiry of certificates and secrets.
pub fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

/// The credentials of these tenants' applications, each once, read from their current files.
pub async fn expiries<'a>(
    tenants: impl IntoIterator<Item = &'a Arc<Tenant>>,
) -> Vec<CredentialExpiry> {
    let mut found = BTreeMap::new();
    for tenant in tenants.into_iter().filter(|tenant| tenant.enabled) {
        for (credential_id, credential) in tenant.app.credentials() {
            found.entry(credential_id).or_insert_with(|| Arc::clone(credential));
        }
    }
    let reads =
        found.into_iter().map(|(credential_id, credential)| expiry(credential_id, credential));
    futures::stream::iter(reads).buffered(CONCURRENT_READS).collect().await
}

async fn expiry(credential_id: CredentialId, credential: Arc<Credential>) -> CredentialExpiry {
    let (_, fingerprint) = credential.client_auth(&credential_id).await;
    CredentialExpiry {
        credential_id,
        kind: credential.kind(),
        expires: credential.expires(),
        is_renewed: credential.is_expiry_outdated(),
        problem: credential.problem(),
        fingerprint,
    }
}

/// The expiry of the credentials of a tenant, for `status --json`.
pub fn of_tenant(tenants: &[Arc<Tenant>], id: Uuid, expiries: &[CredentialExpiry]) -> Value {
    let tenant = tenants.iter().filter(|tenant| tenant.id.0 == id && tenant.enabled);
    let credential_ids: Vec<CredentialId> = tenant
        .flat_map(|tenant| tenant.app.credentials())
        .map(|(credential_id, _)| credential_id)
        .collect();
    let as_json = |expiry: &CredentialExpiry| {
        let CredentialExpiry { credential_id, kind, expires, problem, .. } = expiry;
        json!({ "name": credential_id.name, "kind": kind, "expires": expires, "problem": problem })
    };
    expiries
        .iter()
        .filter(|expiry| credential_ids.contains(&expiry.credential_id))
        .map(as_json)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_stage_follows_days_left() {
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
        let unusable = CredentialExpiry { problem: Some("app.x: gone".into()), ..at(31.0) };
        assert!(unusable.describe(now).ends_with("in 31 days; cannot be re-read: app.x: gone"));
        assert!(at(6.0).describe(now).contains("in 6 days"), "{}", at(6.0).describe(now));
    }
}
