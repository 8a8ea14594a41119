//! An API that refuses every tenant: one alarm, few calls, and a return by itself.

use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::{ReloadTrigger, SyncSettings, TenantResult};
use simulator::{Endpoint, ScriptedReply, Source};
use tokio::sync::Notify;

use crate::support::world::{CONCURRENCY, World, id, spec};

const TENANTS: u128 = 20;
const NOT_CLASSIFIED: &str =
    "SELECT count(*) FROM defender.sync_state WHERE error_class IS DISTINCT FROM 'api_retired'";
const PARKED: &str = "SELECT count(*) FROM defender.sync_state WHERE parked_reason IS NOT NULL";
const PARKED_RUNS: &str = "SELECT count(*) FROM defender.sync_runs WHERE outcome = 'parked' OR error_class = 'not_licensed'";

async fn world() -> World {
    let world = World::with((1..=TENANTS).map(|number| spec(number, 3)).collect()).await;
    world.successful_run().await;
    world
}

/// Requests of every tenant to Entra and to the API.
fn calls(world: &World) -> usize {
    let tenants = world.tenants().iter();
    tenants.map(|tenant| world.service().calls(tenant.id.0).len()).sum()
}

fn classes(results: &[TenantResult]) -> Vec<&'static str> {
    let of = |result: &TenantResult| {
        result.diagnosis.as_ref().map_or("ok", |diagnosis| diagnosis.class.as_str())
    };
    results.iter().map(of).collect()
}

/// The same settings, as a reload reads them.
fn settings(world: &World) -> SyncSettings {
    let settings = world.engine.settings();
    SyncSettings {
        tenants: settings.tenants.clone(),
        are_all: settings.are_all,
        concurrency: settings.concurrency,
        overlap: settings.overlap,
        recheck: settings.recheck,
        lookback: settings.lookback,
        reconcile: settings.reconcile,
        schedule: settings.schedule.clone(),
    }
}

#[tokio::test]
async fn retired_api_parks_no_tenant_and_recovers() {
    for status in [403, 410] {
        let world = world().await;
        world.service().retire(Source::Defender, Some(status));
        let results = world.run().await;
        let found = classes(&results);
        let count = |class| found.iter().filter(|found| **found == class).count();
        assert_eq!((count("upstream"), count("api_retired")), (2, 18), "{status}: {found:?}");
        // Those that failed before the third refusal learn the cause without a call.
        let before = calls(&world);
        for _ in 0..3 {
            assert_eq!(classes(&world.run().await), ["api_retired"; TENANTS as usize]);
        }
        assert_eq!(calls(&world), before, "a retired API is called by no run between two probes");
        assert_eq!(world.number(NOT_CLASSIFIED).await, 0);
        assert_eq!((world.number(PARKED).await, world.number(PARKED_RUNS).await), (0, 0));
        let message = world.state(id(1), "error_message").await.unwrap();
        assert!(message.contains("tenant move --all --to graph"), "{message}");
        assert_eq!(world.state(id(1), "who_must_act").await.as_deref(), Some("operator"));

        // A probe that fails changes nothing.
        let reload = world.engine.reload(settings(&world), ReloadTrigger::OperatorRequest);
        reload.await.unwrap();
        assert_eq!(classes(&world.run().await), ["api_retired"; TENANTS as usize]);
        let probed = calls(&world) - before;
        assert!((1..=4).contains(&probed), "one tenant is tried: {probed} calls");

        world.service().retire(Source::Defender, None);
        let reload = world.engine.reload(settings(&world), ReloadTrigger::OperatorRequest);
        reload.await.unwrap();
        let results = world.run().await;
        assert!(results.iter().any(|result| result.outcome == Outcome::Ok), "the probe");
        let waiting = "SELECT count(*) FROM defender.sync_state WHERE error_class = 'api_retired' AND poll_due_at > now()";
        assert_eq!(world.number(waiting).await, 0, "the others are due");
        world.successful_run().await;
        world.assert_settled().await;
    }
}

#[tokio::test]
async fn restarted_daemon_probes_retired_api_once() {
    let world = world().await;
    world.service().retire(Source::Defender, Some(410));
    world.run().await;
    world.run().await;
    assert_eq!(world.number(NOT_CLASSIFIED).await, 0);
    let due = "UPDATE defender.sync_state SET next_attempt_at = now(), poll_due_at = now()";
    sqlx::query(due).execute(world.pool()).await.unwrap();
    let before = calls(&world);
    let (_, second) = world.other_instance("second", CONCURRENCY).await;
    let wake = Notify::new();
    let stopped = async {
        let runs = "SELECT count(DISTINCT tenant_id) FROM defender.sync_runs WHERE instance LIKE 'second%'";
        while world.number(runs).await < i64::try_from(TENANTS).unwrap() {
            wake.notify_one();
            tokio::task::yield_now().await;
        }
        second.stop.cancel();
    };
    tokio::join!(second.run(&wake), stopped).0.unwrap();
    // A token, the call, and for a 403 both again.
    assert!(calls(&world) - before <= 2, "{} calls", calls(&world) - before);
    assert_eq!((world.number(NOT_CLASSIFIED).await, world.number(PARKED).await), (0, 0));
}

#[tokio::test]
async fn refusal_of_one_tenant_stays_its_customers() {
    let world = World::with((1..=4).map(|number| spec(number, 3)).collect()).await;
    world.successful_run().await;
    let refusals = || std::iter::repeat_n(ScriptedReply::defender(403, "Forbidden"), 9).collect();
    world.service().script(id(2), Endpoint::Incidents, refusals());
    // The first two may end before those of the others, which show that the API serves them.
    world.run().await;
    world.run().await;
    let results = world.run().await;
    assert_eq!(classes(&results), ["ok", "not_licensed", "ok", "ok"]);
    assert_eq!(results[1].outcome, Outcome::Parked);
    assert_eq!(world.state(id(2), "who_must_act").await.as_deref(), Some("customer_admin"));

    // Two tenants are no evidence against the API.
    let world = World::with((1..=2).map(|number| spec(number, 3)).collect()).await;
    world.successful_run().await;
    world.service().retire(Source::Defender, Some(404));
    assert_eq!(classes(&world.run().await), ["tenant_config"; 2]);
}

#[tokio::test]
async fn tenants_never_served_are_not_retirement() {
    let world = World::with((1..=4).map(|number| spec(number, 3)).collect()).await;
    world.service().retire(Source::Defender, Some(404));
    assert_eq!(classes(&world.run().await), ["tenant_config"; 4]);
    assert_eq!(world.number(PARKED).await, 4);
}
