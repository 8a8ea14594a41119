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
use crate::entra::credential::{Credential, Fingerprint, Rank};
use crate::sync::engine::Engine;
use crate::tenant::Tenant;

const EXPIRY: &str = "incident_sync_credential_expiry_timestamp_seconds";
/// How soon a replaced file is noticed where no token is asked for.
const LOOK: Duration = Duration::from_secs(5);
/// Credentials whose files are looked at at the same time.
const LOOKS: usize = 16;
/// Days before the end at which it is told.
const WARNINGS: [i64; 3] = [1, 7, 30];

/// When a credential ends.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Which one.
    pub rank: Rank,
    /// What kind of credential.
    pub kind: &'static str,
    /// The end; `None` where it has none, or nobody has told.
    pub expires: Option<DateTime<Utc>>,
    /// The end that the configuration tells is that of the secret before.
    pub is_renewed: bool,
    /// Why its files cannot be used; what was read before goes on.
    pub problem: Option<String>,
    /// Another one after its files were replaced.
    pub fingerprint: Fingerprint,
}

impl Ending {
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
    pub fn told(&self, now: DateTime<Utc>) -> String {
        let Self { rank, kind, .. } = self;
        let end = match self.expires {
            None if self.is_renewed => {
                "its file was replaced, so its end is not known; set client_secret_expires and reload".to_owned()
            }
            None if *kind == "client secret" => {
                "its end is not known; set client_secret_expires to be warned".to_owned()
            }
            None => "renews itself".to_owned(),
            Some(end) => {
                let (days, last) = (end.signed_duration_since(now).num_days(), end - TimeDelta::seconds(1));
                let last = last.format("%Y-%m-%d");
                if end <= now { format!("HAS EXPIRED on {last}") } else { format!("ends on {last}, in {days} days") }
            }
        };
        let problem = self.problem.as_ref().map(|problem| format!("; CANNOT BE READ AGAIN: {problem}"));
        format!("{rank}: {kind}, {end}{}", problem.unwrap_or_default())
    }

    /// For the doctor.
    pub fn finding(&self, now: DateTime<Utc>) -> Finding {
        let told = self.told(now);
        let (result, say) = match self.stage(now) {
            Some(0) => (CheckResult::Failure, told),
            Some(_) => (CheckResult::Warning, format!("{told}; renew it")),
            None if self.problem.is_some() => (CheckResult::Warning, told),
            None => (CheckResult::Ok, told),
        };
        let who_must_act = (result != CheckResult::Ok).then_some("operator");
        let about = self.rank.owner.as_ref().unwrap_or(&self.rank.client_id).clone();
        Finding { group: Group::Credentials, check: "expiry", about, result, who_must_act, say, error: None }
    }
}

/// The machine's clock: certificates and secrets end by the calendar.
pub fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

/// The credentials of these tenants' applications, each once, by their files as they are now.
pub async fn endings<'a>(tenants: impl IntoIterator<Item = &'a Arc<Tenant>>) -> Vec<Ending> {
    let mut found = BTreeMap::new();
    for tenant in tenants.into_iter().filter(|tenant| tenant.enabled) {
        for (rank, credential) in tenant.app.credentials() {
            found.entry(rank).or_insert_with(|| Arc::clone(credential));
        }
    }
    let looks = found.into_iter().map(|(rank, credential)| ending(rank, credential));
    futures::stream::iter(looks).buffered(LOOKS).collect().await
}

async fn ending(rank: Rank, credential: Arc<Credential>) -> Ending {
    let (_, fingerprint) = credential.proof(&rank).await;
    let (kind, expires, problem) = (credential.kind(), credential.expires(), credential.problem());
    let is_renewed = credential.has_outlived_its_end();
    Ending { rank, kind, expires, is_renewed, problem, fingerprint }
}

/// The ends of the credentials by which a tenant is read, as `status --json` shows them.
pub fn of_tenant(tenants: &[Arc<Tenant>], id: Uuid, endings: &[Ending]) -> Value {
    let tenant = tenants.iter().filter(|tenant| tenant.id.0 == id && tenant.enabled);
    let ranks: Vec<Rank> = tenant.flat_map(|tenant| tenant.app.credentials()).map(|(rank, _)| rank).collect();
    let told = |ending: &Ending| {
        let Ending { rank, kind, expires, problem, .. } = ending;
        json!({ "name": rank.name, "kind": kind, "expires": expires, "problem": problem })
    };
    endings.iter().filter(|ending| ranks.contains(&ending.rank)).map(told).collect()
}

/// Tells what ends soon, and gives tenants that wait for a credential another chance when its files have changed.
pub async fn watch(engine: Arc<Engine>, wake: Arc<Notify>) {
    let mut told = HashMap::new();
    let mut seen = HashMap::new();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let settings = engine.settings();
        let endings = endings(settings.tenants.values()).await;
        for ending in &endings {
            tell(ending, now(), &mut told);
        }
        seen.keys().filter(|rank| endings.iter().all(|ending| ending.rank != **rank)).for_each(retire);
        let changed = changed(settings.tenants.values(), &endings, &mut seen);
        if changed.is_empty() {
            continue;
        }
        match engine.parties().store.unpark(&changed).await {
            Ok(()) => wake.notify_one(),
            Err(error) => {
                tracing::warn!(error = %error, "tenants whose credential has changed are tried again at their usual time");
            }
        }
    }
}

/// A credential that is configured no more alarms nobody; the recorder forgets no series.
fn retire(rank: &Rank) {
    rank.set("incident_sync_credential_refused", 0.0);
    rank.set("incident_sync_credential_in_use", 0.0);
    rank.set("incident_sync_credential_files_unusable", 0.0);
    rank.set(EXPIRY, f64::NAN);
}

/// Once for each stage, so that it is a line in the log and not a flood.
fn tell(ending: &Ending, now: DateTime<Utc>, told: &mut HashMap<Rank, i64>) {
    let rank = &ending.rank;
    rank.set("incident_sync_credential_files_unusable", f64::from(ending.problem.is_some()));
    if let Some(end) = ending.expires {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
        rank.set(EXPIRY, end.timestamp() as f64);
    } else if ending.is_renewed {
        // No alert may go by the end of the secret before.
        rank.set(EXPIRY, f64::NAN);
    }
    let Some(stage) = ending.stage(now) else {
        told.remove(rank);
        return;
    };
    if told.insert(rank.clone(), stage) == Some(stage) {
        return;
    }
    let (Rank { client_id: app, name: credential, owner }, kind) = (rank, ending.kind);
    let what = ending.told(now);
    if stage == 0 {
        tracing::error!(
            who = "operator",
            app,
            credential,
            tenant.name = owner,
            kind,
            "a credential has expired: {what}"
        );
    } else {
        tracing::warn!(
            who = "operator",
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
    endings: &[Ending],
    seen: &mut HashMap<Rank, Fingerprint>,
) -> Vec<Uuid> {
    let looked: HashMap<Rank, Fingerprint> =
        endings.iter().map(|ending| (ending.rank.clone(), ending.fingerprint)).collect();
    let before = std::mem::replace(seen, looked);
    let is_new = |(rank, now): &(&Rank, &Fingerprint)| before.get(rank).is_some_and(|before| before != *now);
    let new: HashSet<&Rank> = seen.iter().filter(is_new).map(|(rank, _)| rank).collect();
    let has_new = |tenant: &&Arc<Tenant>| tenant.app.credentials().any(|(rank, _)| new.contains(&rank));
    tenants.into_iter().filter(has_new).map(|tenant| tenant.id.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_thirty_seven_and_one_days_before_and_when_it_has_come() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at = |days: f64| {
            #[expect(clippy::cast_possible_truncation, reason = "a few days in seconds")]
            let expires = now + TimeDelta::seconds((days * 86_400.0) as i64);
            Ending {
                rank: Rank { client_id: "a".into(), name: "first", owner: None },
                kind: "certificate",
                expires: Some(expires),
                is_renewed: false,
                problem: None,
                fingerprint: [0; 32],
            }
        };
        let stages = [(31.0, None), (30.0, Some(30)), (7.1, Some(30)), (7.0, Some(7)), (1.5, Some(7))];
        for (days, stage) in stages.into_iter().chain([(1.0, Some(1)), (0.1, Some(1)), (0.0, Some(0)), (-3.0, Some(0))])
        {
            assert_eq!(at(days).stage(now), stage, "{days}");
        }
        assert_eq!(Ending { expires: None, ..at(0.0) }.stage(now), None);
        assert_eq!(at(31.0).finding(now).result, CheckResult::Ok);
        assert_eq!(at(6.0).finding(now).result, CheckResult::Warning);
        assert_eq!(at(-1.0).finding(now).result, CheckResult::Failure);
        let unusable = Ending { problem: Some("app.x: gone".into()), ..at(31.0) };
        assert_eq!(unusable.finding(now).result, CheckResult::Warning);
        assert!(unusable.told(now).ends_with("in 31 days; CANNOT BE READ AGAIN: app.x: gone"));
        assert!(at(6.0).told(now).contains("in 6 days"), "{}", at(6.0).told(now));
    }
}
