//! Errors of Entra and Defender: who must act, what is stored, and that other tenants are not delayed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use incident_sync::store::runs::Outcome;
use incident_sync::store::tenants::RemovedTenants;
use incident_sync::sync::engine::TenantResult;
use incident_sync::tenant::TokenVersion;
use simulator::{Behaviour, Endpoint, ScriptedReply, TenantSpec};
use tokio::sync::Notify;

use crate::support::secrets::CANARY;
use crate::support::world::{World, id, spec};

fn behaving(number: u128, behaviour: Behaviour) -> TenantSpec {
    TenantSpec { behaviour, ..spec(number, 20) }
}

/// Class and person of a failed run.
fn judged(result: &TenantResult) -> (Outcome, &'static str, &'static str) {
    let diagnosis = result.diagnosis.as_ref().expect("the run failed");
    (result.outcome, diagnosis.class.as_str(), diagnosis.owner.as_str())
}

fn api_calls(world: &World, number: u128) -> usize {
    let calls = world.service().calls(id(number));
    calls.iter().filter(|call| call.endpoint == Endpoint::Incidents).count()
}

fn token_calls(world: &World, number: u128) -> usize {
    let calls = world.service().calls(id(number));
    calls.iter().filter(|call| call.endpoint == Endpoint::Token).count()
}

#[tokio::test]
async fn each_broken_tenant_has_its_own_diagnosis() {
    let world = World::with(vec![
        behaving(1, Behaviour { wrong_tid: Some(id(9)), ..Behaviour::default() }),
        behaving(2, Behaviour { no_roles: true, ..Behaviour::default() }),
        behaving(3, Behaviour { consent_missing: true, ..Behaviour::default() }),
        behaving(4, Behaviour { opaque_token: true, ..Behaviour::default() }),
        spec(5, 20),
    ])
    .await;
    let results = world.run().await;
    assert_eq!(judged(&results[0]), (Outcome::Parked, "security", "operator"));
    assert_eq!(api_calls(&world, 1), 0, "no call with a token of another tenant");
    assert_eq!(judged(&results[1]), (Outcome::Parked, "missing_role", "customer_admin"));
    let message = world.state(id(2), "error_message").await.unwrap();
    assert!(message.contains("Incident.Read.All"), "{message}");
    assert_eq!(judged(&results[2]), (Outcome::Parked, "consent_missing", "customer_admin"));
    assert!(world.state(id(3), "parked_reason").await.unwrap().contains("consent"));
    assert_eq!(results[3].outcome, Outcome::Ok, "an opaque token is used");
    assert_eq!(results[4].outcome, Outcome::Ok);
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 40);
    assert_eq!(world.number("SELECT count(DISTINCT tenant_id) FROM defender.incidents").await, 2);

    // The customer consents: the next attempt succeeds and the state shows it.
    world.service().set_behaviour(id(3), Behaviour::default());
    let results = world.run().await;
    assert_eq!(results[2].outcome, Outcome::Ok);
    assert_eq!(world.state(id(3), "parked_reason").await, None);
}

#[tokio::test]
async fn v1_token_endpoint_works_with_string_numbers() {
    let world = World::with_version(vec![spec(1, 20)], TokenVersion::V1).await;
    world.successful_run().await;
    world.assert_settled().await;
    assert_eq!(token_calls(&world, 1), 1, "a token is asked for once in its lifetime");
}

#[tokio::test]
async fn token_expired_between_pages_is_replaced() {
    let world = World::of(350).await;
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::Pass, ScriptedReply::Pass, ScriptedReply::ExpireToken],
    );
    world.successful_run().await;
    assert_eq!(token_calls(&world, 1), 2);
    world.assert_settled().await;
}

#[tokio::test]
async fn token_refused_twice_is_not_requested_again() {
    let world = World::of(20).await;
    let refusals =
        std::iter::repeat_with(|| ScriptedReply::defender(401, "Unauthorized")).take(5).collect();
    world.service().script(id(1), Endpoint::Incidents, refusals);
    let results = world.run().await;
    assert_eq!(judged(&results[0]), (Outcome::Parked, "unauthorized", "operator"));
    assert_eq!((token_calls(&world, 1), api_calls(&world, 1)), (2, 2));
    let advice = &results[0].diagnosis.as_ref().unwrap().advice;
    let audience = format!("for {}", world.url().as_str().trim_end_matches('/'));
    assert!(advice.contains(&audience) && advice.contains("Correct scope"), "{advice}");
    for polls in 1..=3 {
        let results = world.run().await;
        assert_eq!(judged(&results[0]).1, "unauthorized");
        assert_eq!((token_calls(&world, 1), api_calls(&world, 1)), (2, 2 + polls));
    }
    world.successful_run().await;
}

/// Seconds from now, by the database's clock, until the tenant may be tried.
async fn seconds_until_next_attempt(world: &World) -> i64 {
    world
        .number(
            "SELECT extract(epoch FROM next_attempt_at - now())::bigint FROM defender.sync_state",
        )
        .await
}

#[tokio::test]
async fn short_pause_is_waited_out_within_the_run() {
    let world = World::of(350).await;
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::Pass, ScriptedReply::throttled(1)],
    );
    world.successful_run().await;
    assert_eq!(world.number("SELECT sum(throttled)::bigint FROM defender.sync_runs").await, 1);
    world.assert_settled().await;
}

#[tokio::test]
async fn long_pause_ends_the_run_and_is_stored() {
    let world = World::of(20).await;
    let date = |seconds| {
        httpdate::fmt_http_date((world.service().now() + Duration::from_secs(seconds)).into())
    };
    let with_date = ScriptedReply::Status {
        code: 429,
        body: String::new(),
        headers: vec![("Retry-After".to_owned(), date(500))],
    };
    let without = ScriptedReply::Status { code: 429, body: String::new(), headers: vec![] };
    for (reply, at_least, at_most) in
        [(ScriptedReply::throttled(900), 895, 1_000), (with_date, 490, 560), (without, 55, 70)]
    {
        world.service().script(id(1), Endpoint::Incidents, vec![reply]);
        let results = world.run().await;
        assert_eq!(judged(&results[0]), (Outcome::Throttled, "throttled", "nobody"));
        let pause = seconds_until_next_attempt(&world).await;
        assert!((at_least..=at_most).contains(&pause), "{pause} is not in {at_least}..={at_most}");
        // Not even a person shortens a pause that the service asked for.
        assert!(world.store.claim_due(&[id(1)], 1).await.unwrap().is_empty());
        assert!(world.store.claim_named(&[id(1)], 1).await.unwrap().is_empty());
        sqlx::query(
            "UPDATE defender.sync_state SET next_attempt_at = now(), no_calls_before = now()",
        )
        .execute(world.pool())
        .await
        .unwrap();
    }
    world.successful_run().await;
    world.assert_settled().await;
}

#[tokio::test]
async fn repeated_500_is_retried_then_backs_off() {
    let world = World::of(20).await;
    let storm = |count| {
        std::iter::repeat_with(|| ScriptedReply::defender(500, "InternalServerError"))
            .take(count)
            .collect()
    };
    world.service().script(id(1), Endpoint::Incidents, storm(2));
    world.successful_run().await;
    assert_eq!(api_calls(&world, 1), 3);
    for failures in 1..=3_u32 {
        world.service().script(id(1), Endpoint::Incidents, storm(7));
        let results = world.run().await;
        assert_eq!(judged(&results[0]), (Outcome::Failed, "upstream", "nobody"));
        let pause = seconds_until_next_attempt(&world).await;
        let base = 60 * (1 << (failures - 1));
        assert!(
            (base * 7 / 10..=base * 13 / 10).contains(&pause),
            "{pause} after {failures} failures"
        );
        assert_eq!(world.state(id(1), "consecutive_failures").await, Some(failures.to_string()));
    }
    world.successful_run().await;
    assert_eq!(world.state(id(1), "consecutive_failures").await.as_deref(), Some("0"));
    assert_eq!(world.state(id(1), "error_class").await, None);
    world.assert_settled().await;
}

#[tokio::test]
async fn broken_bodies_are_read_again() {
    let world = World::of(350).await;
    let html = "<html>captive portal</html>".to_owned();
    let replies = vec![
        ScriptedReply::CutBody { after_bytes: 1_000 },
        ScriptedReply::Body(html),
        ScriptedReply::Pass,
        ScriptedReply::Body(r#"{"value":null}"#.to_owned()),
        ScriptedReply::CutBody { after_bytes: 30_000 },
    ];
    world.service().script(id(1), Endpoint::Incidents, replies);
    world.successful_run().await;
    world.assert_settled().await;
}

#[tokio::test]
async fn invalid_page_fails_the_run_and_stores_nothing() {
    let world = World::of(20).await;
    let html =
        std::iter::repeat_with(|| ScriptedReply::Body("<html>".to_owned())).take(4).collect();
    world.service().script(id(1), Endpoint::Incidents, html);
    let results = world.run().await;
    assert_eq!(judged(&results[0]), (Outcome::Failed, "bad_reply", "nobody"));
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 0);
}

#[tokio::test]
async fn redirects_and_foreign_links_are_not_followed() {
    let world = World::with(vec![spec(1, 20), spec(2, 20), spec(3, 20)]).await;
    // The second tenant of the same simulator stands for a foreign host: whatever is followed shows up in its log.
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let foreign = format!("http://{}/steal", elsewhere.local_addr().unwrap());
    let location = vec![("Location".to_owned(), foreign.clone())];
    world.service().script(
        id(1),
        Endpoint::Token,
        vec![ScriptedReply::Status { code: 307, body: String::new(), headers: location.clone() }],
    );
    world.service().script(
        id(2),
        Endpoint::Incidents,
        vec![ScriptedReply::Status { code: 302, body: String::new(), headers: location }],
    );
    let link = format!(r#"{{"value":[],"@odata.nextLink":"{foreign}"}}"#);
    world.service().script(id(3), Endpoint::Incidents, vec![ScriptedReply::Body(link)]);
    for result in world.run().await {
        assert_eq!(
            judged(&result),
            (Outcome::Parked, "security", "operator"),
            "{}",
            result.tenant.name
        );
    }
    let visited = tokio::time::timeout(Duration::from_millis(200), elsewhere.accept()).await;
    assert!(visited.is_err(), "something was followed to the foreign host");
}

#[tokio::test]
async fn refused_credential_is_tried_twice_for_all_tenants() {
    let world = World::with((1..=30).map(|at| spec(at, 5)).collect()).await;
    world.service().set_client_secret("another-secret");
    let (_, one_by_one) = world.other_instance("one-by-one", 1).await;
    let ids: Vec<_> = world.tenants().iter().map(|tenant| tenant.id.0).collect();
    let results = one_by_one
        .run_once(&ids, incident_sync::sync::tenant_run::SyncMode::Incremental)
        .await
        .unwrap();
    assert!(
        results
            .iter()
            .all(|result| judged(result).1 == "credential" && judged(result).2 == "operator")
    );
    let asked: usize = (1..=30).map(|at| token_calls(&world, at)).sum();
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn hanging_tenants_delay_no_other_tenant() {
    // More than there are places, and with the lowest ids, which come first.
    let hanging =
        [1, 2, 3].map(|at| behaving(at, Behaviour { hang: true, ..Behaviour::default() }));
    let world =
        World::with(hanging.into_iter().chain((4..=8).map(|at| spec(at, 40))).collect()).await;
    let (_, engine) = world.other_instance("two-at-once", 2).await;
    let wake = Notify::new();
    let others = async {
        while world
            .number("SELECT count(*) FROM defender.sync_state WHERE last_success_at IS NOT NULL")
            .await
            < 5
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        engine.stop.cancel();
    };
    let both = async { tokio::join!(engine.run(&wake), others).0.unwrap() };
    tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("five tenants are done beside three that hang");
    assert_eq!(world.state(id(1), "last_success_at").await, None);
    assert_eq!(world.state(id(1), "lease_owner").await, None, "a stopped run gives its lease back");
}

#[tokio::test]
async fn removed_tenant_keeps_its_data() {
    let world = World::with(vec![spec(1, 5), spec(2, 5)]).await;
    world.successful_run().await;
    world.store.sync_tenants(&world.tenants()[..1], RemovedTenants::AllOthers).await.unwrap();
    let removed: Option<DateTime<Utc>> =
        sqlx::query_scalar("SELECT removed_at FROM defender.tenants WHERE tenant_id = $1")
            .bind(id(2))
            .fetch_one(world.pool())
            .await
            .unwrap();
    assert!(removed.is_some());
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 10);
    world.store.sync_tenants(world.tenants(), RemovedTenants::AllOthers).await.unwrap();
    assert_eq!(
        world.number("SELECT count(*) FROM defender.tenants WHERE removed_at IS NOT NULL").await,
        0
    );
}

#[tokio::test]
async fn database_holds_no_secret_or_token() {
    let world = World::with(vec![
        spec(1, 20),
        behaving(2, Behaviour { wrong_tid: Some(id(9)), ..Behaviour::default() }),
    ])
    .await;
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::defender(400, "BadRequest"), ScriptedReply::defender(403, "Forbidden")],
    );
    world.run().await;
    world.run().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'defender'",
    )
    .fetch_all(world.pool())
    .await
    .unwrap();
    for table in tables {
        let rows = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t");
        let text: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_one(world.pool()).await.unwrap();
        assert!(!text.contains(CANARY) && !text.contains("eyJ"), "{table} holds a secret");
    }
}
