//! Errors of Graph, its quota, and what they leave untouched.

use std::time::Duration;

use incident_sync::store::quota::Quota;
use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::TenantResult;
use incident_sync::tenant::{Source, TenantId};
use simulator::{Endpoint, GraphBehaviour, ScriptedReply};

use crate::support::world::{World, id, spec};

fn judged(result: &TenantResult) -> (Outcome, &str, &str) {
    let diagnosis = result.diagnosis.as_ref().expect("the run failed");
    (result.outcome, diagnosis.class.as_str(), diagnosis.owner.as_str())
}

/// Two readings of each tenant of a fleet on both sources, of which the first Graph tenant is broken.
async fn assert_isolated(breaks: impl Fn(&World), expected: (Outcome, &str, &str)) {
    let sources = [Source::Graph, Source::Graph, Source::Defender, Source::Defender];
    let specs = (1..).zip(sources).map(|(number, source)| (source, spec(number, 80)));
    let world = World::with_sources(specs.collect()).await;
    for _ in 0..2 {
        breaks(&world);
        let results = world.run().await;
        assert_eq!(judged(&results[0]), expected);
        for result in &results[1..] {
            assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
        }
        let broken =
            "SELECT count(*) FROM defender.incidents i JOIN defender.tenants t USING (tenant_id)
            WHERE t.name = 'tenant-1'";
        assert_eq!(world.number(broken).await, 0);
        let others = "SELECT count(*) FROM defender.incidents";
        assert_eq!(world.number(others).await, 240);
        world.clear_parking().await;
        sqlx::query(
            "UPDATE defender.sync_state SET next_attempt_at = now(), no_calls_before = now()",
        )
        .execute(world.pool())
        .await
        .unwrap();
    }
    world.service().set_graph(id(1), GraphBehaviour::default());
    world.service().consent(id(1), simulator::Source::Graph);
    world.service().advance(Duration::from_secs(7_200));
    world.successful_run().await;
    world.assert_settled().await;
}

#[tokio::test]
async fn defender_role_alone_is_a_missing_role() {
    let world = World::of_graph(vec![spec(1, 10)]).await;
    world.service().revoke(id(1), simulator::Source::Graph);
    assert_eq!(judged(&world.run().await[0]), (Outcome::Parked, "missing_role", "customer_admin"));
    let message = world.state(id(1), "error_message").await.unwrap();
    assert!(message.contains("SecurityIncident.Read.All"), "{message}");
    let revoke = |world: &World| world.service().revoke(id(1), simulator::Source::Graph);
    assert_isolated(revoke, (Outcome::Parked, "missing_role", "customer_admin")).await;
}

#[tokio::test]
async fn refusal_despite_the_role_is_about_the_tenant() {
    let refuse = |world: &World| {
        let refusal = vec![ScriptedReply::graph(403, "Forbidden")];
        world.service().script(id(1), Endpoint::GraphIncidents, refusal);
    };
    assert_isolated(refuse, (Outcome::Parked, "not_licensed", "customer_admin")).await;
}

#[tokio::test]
async fn outage_of_one_graph_tenant_delays_no_other() {
    let fail = |world: &World| {
        let partial = GraphBehaviour { partial: true, ..GraphBehaviour::default() };
        world.service().set_graph(id(1), partial);
    };
    assert_isolated(fail, (Outcome::Failed, "upstream", "nobody")).await;
}

#[tokio::test]
async fn long_pause_of_graph_ends_the_run() {
    let throttle = |world: &World| {
        let reply = vec![ScriptedReply::throttled(900)];
        world.service().script(id(1), Endpoint::GraphIncidents, reply);
    };
    assert_isolated(throttle, (Outcome::Throttled, "throttled", "nobody")).await;
}

#[tokio::test]
async fn short_pause_of_graph_is_waited_out() {
    let world = World::of_graph(vec![spec(1, 120)]).await;
    let replies = vec![ScriptedReply::Pass, ScriptedReply::throttled(1)];
    world.service().script(id(1), Endpoint::GraphIncidents, replies);
    let started = std::time::Instant::now();
    world.successful_run().await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(world.number("SELECT sum(throttled)::bigint FROM defender.sync_runs").await, 1);
    world.assert_settled().await;
}

#[tokio::test]
async fn graph_quota_holds_in_every_minute() {
    let world = World::of_graph(vec![spec(1, 0)]).await;
    let quota = Quota::documented(Source::Graph);
    let begun = std::time::Instant::now();
    let mut calls = Vec::new();
    // The waits pass in the database: a wait that no sequence of calls can cause is taken for a clock that was ahead.
    let mut passed = Duration::ZERO;
    for _ in 0..400 {
        let wait = world.store.reserve_call(TenantId(id(1)), &quota).await.unwrap();
        passed += wait;
        calls.push(begun.elapsed() + passed);
        world.pass_quotas(wait).await;
    }
    let limit = usize::try_from(Source::Graph.calls_per_minute()).unwrap();
    // Time passes between the database's clock and ours.
    let minute = Duration::from_millis(59_900);
    for window in calls.windows(limit + 1) {
        let length = window[limit].saturating_sub(window[0]);
        assert!(length >= minute, "{} calls within {length:?}", limit + 1);
    }
    let expected = Duration::from_secs(60) * (400 - 40) / 60;
    assert!(*calls.last().unwrap() < expected + Duration::from_secs(5), "the quota is used");
}
