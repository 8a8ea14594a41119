//! Scripted replies as cases: each is a tenant of its own, and one run reads them all.

use std::collections::BTreeMap;
use std::time::Duration;

use incident_sync::http_client::Deadlines;
use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::TenantResult;
use incident_sync::sync::tenant_run::SyncMode;

use super::peer::{Asked, Peer, Script, Step, TOKEN, answer, ok, page, token};
use super::secrets::CANARY;
use super::tenants::{id, spec};
use super::world::World;

/// A run that needs longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A name for the failure message, and what the peer does when this case's tenant asks.
pub(crate) struct Case {
    name: String,
    script: Box<Script>,
}

/// The API answers like this; tokens are fine.
pub(crate) fn api(
    name: impl Into<String>,
    script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
) -> Case {
    let script =
        move |asked: &Asked| if asked.is_token() { token(asked.tenant) } else { script(asked) };
    Case { name: name.into(), script: Box::new(script) }
}

/// The token endpoint answers like this; the API has one incident.
pub(crate) fn entra(
    name: impl Into<String>,
    script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
) -> Case {
    let script =
        move |asked: &Asked| if asked.is_token() { script(asked) } else { ok(page([1], None)) };
    Case { name: name.into(), script: Box::new(script) }
}

/// What came of the cases.
pub(crate) struct Ended {
    pub(crate) world: World,
    pub(crate) peer: Peer,
    names: Vec<String>,
    results: BTreeMap<u128, TenantResult>,
}

/// One run of each case, as a tenant of its own.
pub(crate) async fn run(cases: Vec<Case>, deadlines: Deadlines) -> Ended {
    let numbers = 1..=cases.len() as u128;
    let world = World::with(numbers.clone().map(|number| spec(number, 0)).collect()).await;
    let names = cases.iter().map(|case| case.name.clone()).collect();
    let peer = Peer::start(move |asked| {
        match asked.tenant.checked_sub(1).and_then(|at| cases.get(at as usize)) {
            Some(case) => (case.script)(asked),
            None => vec![Step::Say(answer(404, &[], ""))],
        }
    })
    .await;
    let engine = world.facing(&peer.url, deadlines).await;
    let ids: Vec<_> = numbers.map(id).collect();
    let ended = tokio::time::timeout(PATIENCE, engine.run_once(&ids, SyncMode::Incremental));
    let results = ended.await.expect("a run does not end").unwrap();
    let number = |result: &TenantResult| result.tenant.id.0.as_u128() - id(0).as_u128();
    let results: BTreeMap<_, _> =
        results.into_iter().map(|result| (number(&result), result)).collect();
    assert_eq!(results.len(), ids.len());
    Ended { world, peer, names, results }
}

impl Ended {
    pub(crate) fn each(&self) -> impl Iterator<Item = (&str, u128, &TenantResult)> {
        self.results
            .iter()
            .map(|(number, result)| (&*self.names[*number as usize - 1], *number, result))
    }

    /// Every case failed like this, and nothing was stored or thought to be read.
    pub(crate) async fn all_failed(&self, outcome: Outcome, class: &str) {
        for (name, number, result) in self.each() {
            let found = result.diagnosis.as_ref().map(|diagnosis| diagnosis.class.as_str());
            assert_eq!(
                (result.outcome, found),
                (outcome, Some(class)),
                "{name}: {:?}",
                result.report.failure
            );
            let message =
                self.world.state(id(number), "error_message").await.expect("the failure is stored");
            assert!(
                ![CANARY, TOKEN, "steal"].iter().any(|secret| message.contains(secret)),
                "{name}: {message}"
            );
            assert_eq!(self.world.state(id(number), "watermark").await, None, "{name}");
            assert_eq!(self.world.state(id(number), "last_success_at").await, None, "{name}");
        }
        assert_eq!(self.incidents().await, 0);
    }

    /// Every case went well and stored so many incidents.
    pub(crate) async fn all_stored(&self, incidents: i64) {
        for (name, _, result) in self.each() {
            assert_eq!(result.outcome, Outcome::Ok, "{name}: {:?}", result.report.failure);
            assert_eq!(result.report.counts.incidents_written as i64, incidents, "{name}");
        }
        assert_eq!(self.incidents().await, incidents * self.results.len() as i64);
    }

    async fn incidents(&self) -> i64 {
        self.world.number("SELECT count(*) FROM defender.incidents").await
    }
}

/// A host that would take everything that is sent to it.
pub(crate) async fn thief() -> Peer {
    Peer::start(|asked| if asked.is_token() { token(1) } else { ok(page([666], None)) }).await
}
