//! Several instances on one database: quotas, pauses, leases, and releases of different age.

use std::time::Duration;

use incident_sync::error::SyncError;
use incident_sync::store::quota::Quota;
use incident_sync::store::runs::Outcome;
use incident_sync::store::{Store, apply_migrations};
use incident_sync::tenant::TenantId;
use simulator::{Behaviour, Endpoint, ScriptedReply, TenantSpec};
use tokio::sync::Notify;

use crate::support::world::{World, id, spec};

async fn reopened(world: &World, migrate: bool) -> Result<Store, SyncError> {
    Store::open(&world.database, 2, "reopened".to_owned(), migrate).await
}

#[tokio::test]
async fn quota_is_shared_and_survives_restart() {
    let world = World::of(1).await;
    let (other, _) = world.other_instance("other", 1).await;
    let tenant = TenantId(id(1));
    // Four immediately, then one every ten seconds.
    let quota = Quota::new(10, Some(1_000));
    for store in [&world.store, &other, &world.store, &other] {
        assert_eq!(store.reserve_call(tenant, &quota).await.unwrap(), Duration::ZERO);
    }
    let seconds =
        async |store: &Store| store.reserve_call(tenant, &quota).await.unwrap().as_secs_f64();
    let waits = [
        seconds(&other).await,
        seconds(&world.store).await,
        seconds(&reopened(&world, false).await.unwrap()).await,
    ];
    for (wait, at_most) in waits.into_iter().zip([10.0, 20.0, 30.0]) {
        assert!((at_most - 8.0..=at_most).contains(&wait), "{waits:?}");
    }
}

#[tokio::test]
async fn hourly_quota_applies_below_the_minute_limit() {
    let world = World::of(1).await;
    let quota = Quota::new(1_000_000, Some(10));
    for _ in 0..4 {
        assert_eq!(
            world.store.reserve_call(TenantId(id(1)), &quota).await.unwrap(),
            Duration::ZERO
        );
    }
    let wait = world.store.reserve_call(TenantId(id(1)), &quota).await.unwrap();
    assert!(wait > Duration::from_secs(500), "{wait:?}");
}

#[tokio::test]
async fn pause_applies_to_all_instances_and_after_kill() {
    let world = World::with(vec![spec(1, 5), spec(2, 5)]).await;
    world.successful_run().await;
    world.service().script(id(1), Endpoint::Incidents, vec![ScriptedReply::throttled(20)]);
    // The instance that received the pause dies while it waits.
    let ids = [id(1)];
    let dies = world.engine.run_once(&ids, incident_sync::sync::tenant_run::SyncMode::Incremental);
    tokio::time::timeout(Duration::from_secs(3), dies).await.unwrap_err();
    let store = reopened(&world, false).await.unwrap();
    let quota = Quota::new(50, Some(1_500));
    let wait = store.reserve_call(TenantId(id(1)), &quota).await.unwrap();
    assert!(wait > Duration::from_secs(10), "{wait:?}");
    assert_eq!(store.reserve_call(TenantId(id(2)), &quota).await.unwrap(), Duration::ZERO);

    store.hold_calls(TenantId(id(1)), Duration::from_secs(900)).await.unwrap();
    let paused = store.reserve_call(TenantId(id(1)), &quota).await;
    assert!(
        matches!(paused, Err(SyncError::Paused { wait }) if wait > Duration::from_secs(800)),
        "{paused:?}"
    );
    assert_eq!(paused.unwrap_err().diagnosis().class.as_str(), "throttled");
}

#[tokio::test]
async fn run_ends_when_its_lease_cannot_be_renewed() {
    let hanging =
        TenantSpec { behaviour: Behaviour { hang: true, ..Behaviour::default() }, ..spec(1, 5) };
    let mut world = World::with(vec![hanging]).await;
    world.lease_term = Duration::from_secs(3);
    let (_, engine) = world.other_instance("cut off", 1).await;
    let blocks_renewal = async {
        while world.state(id(1), "lease_owner").await.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut row = world.pool().begin().await.unwrap();
        sqlx::query("SELECT FROM defender.sync_state FOR UPDATE").execute(&mut *row).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        row.commit().await.unwrap();
    };
    let ids = [id(1)];
    let (results, ()) = tokio::join!(
        engine.run_once(&ids, incident_sync::sync::tenant_run::SyncMode::Incremental),
        blocks_renewal
    );
    let result = results.unwrap().remove(0);
    assert!(
        matches!(result.report.failure, Some(SyncError::LeaseLost)),
        "{:?}",
        result.report.failure
    );
    assert_eq!(result.outcome, Outcome::Stopped);
}

#[tokio::test]
async fn older_version_runs_on_newer_schema_or_stops() {
    let mut world = World::of(20).await;
    world.lease_term = Duration::from_secs(3);
    let newer =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'of a newer version', true, '', 0)";
    sqlx::query(newer).execute(world.pool()).await.unwrap();
    apply_migrations(&world.database).await.unwrap();
    drop(reopened(&world, true).await.unwrap());
    world.successful_run().await;
    world.assert_truth().await;

    // The newer version's schema is now one that this one cannot work with; it runs while that happens.
    let (_, running) = world.other_instance("running", 1).await;
    let wake = Notify::new();
    let raise = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sqlx::query("UPDATE defender.schema_info SET oldest_supported = 9999")
            .execute(world.pool())
            .await
            .unwrap();
    };
    let both = async { tokio::join!(running.run(&wake), raise).0 };
    let stopped =
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("it notices").unwrap_err();
    assert_eq!(stopped.diagnosis().class.as_str(), "schema");
    assert!(stopped.to_string().contains("install the newest version"), "{stopped}");
    let refused = reopened(&world, true).await.unwrap_err();
    assert!(refused.to_string().contains("migration 9999"), "{refused}");
}

#[tokio::test]
async fn newer_version_refuses_an_older_schema() {
    let world = World::of(1).await;
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version > 1")
        .execute(world.pool())
        .await
        .unwrap();
    let refused = reopened(&world, false).await.unwrap_err();
    assert!(refused.to_string().contains("it is older than this version"), "{refused}");
    assert!(refused.diagnosis().advice.contains("incident-sync migrate"));
}

#[tokio::test]
async fn lost_lease_deletes_nothing_of_quarantine() {
    let world = World::of(1).await;
    world.successful_run().await;
    let hash = [7_u8; 16];
    sqlx::query(
        "INSERT INTO defender.rejected_payloads (tenant_id, incident_id, reason, payload, content_hash)
         VALUES ($1, 99, 'test', '{}', $2)",
    )
    .bind(id(1))
    .bind(hash)
    .execute(world.pool())
    .await
    .unwrap();
    let claim = world.store.claim_named(&[id(1)], 1).await.unwrap().remove(0);
    world.store.take_lease(claim.lease.tenant).await.unwrap();

    let deleted = world.store.delete_obsolete(&claim.lease, &[hash]).await;

    assert!(matches!(deleted, Err(SyncError::LeaseLost)), "{deleted:?}");
    assert_eq!(world.number("SELECT count(*) FROM defender.rejected_payloads").await, 1);
}
