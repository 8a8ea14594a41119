//! The views answer from summaries exactly what they would answer without them, at every moment.

use std::time::Duration;

use fastrand::Rng;
use incident_sync::tenant::TenantId;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinHandle;

use crate::mutate::pick;
use crate::support::roles::{superuser, texts};
use crate::support::world::{World, id, spec};

/// Each view, and the plain question behind it.
const VIEWS: [(&str, &str, &str); 6] = [
    ("incident_trend_daily", "incident_days_now", "tenant_id, day, severity, opened, resolved, backlog"),
    (
        "mttr_by_tenant_month",
        "incident_months_now",
        "tenant_id, month, acknowledged_count, time_to_acknowledge_median_seconds, time_to_acknowledge_p90_seconds,
         acknowledged_unobserved_count, resolved_count, time_to_resolve_median_seconds, time_to_resolve_p90_seconds,
         resolved_unobserved_count",
    ),
    ("mitre_coverage", "technique_months_now", "tenant_id, month, technique, alert_count, incident_count"),
    (
        "devices_at_risk",
        "devices_open_now",
        "tenant_id, device_id, open_incident_count, alert_count, highest_severity, last_activity",
    ),
    (
        "users_at_risk",
        "users_open_now",
        "tenant_id, user_key, user_principal_name, account_name, aad_user_id, open_incident_count, alert_count,
         highest_severity, last_activity",
    ),
    ("incidents", "incident_counts_now", "tenant_id, incident_id, alert_count, device_count, user_count"),
];

async fn assert_exact(connection: &mut PgConnection, when: &str) {
    for (view, plain, columns) in VIEWS {
        let rows = async |connection: &mut PgConnection, relation: String| {
            texts(
                connection,
                &format!("SELECT row({columns})::text AS line FROM {relation} ORDER BY line"),
            )
            .await
        };
        let expected = rows(&mut *connection, format!("defender.{plain}")).await;
        assert!(!expected.is_empty(), "{plain} has nothing to say");
        assert_eq!(
            rows(&mut *connection, format!("reporting.{view}")).await,
            expected,
            "{view} {when}"
        );
    }
}

/// The question itself, for what the view must not ask any more.
async fn currents(connection: &mut PgConnection) -> Vec<String> {
    texts(
        connection,
        "SELECT right(tenant_id::text, 1) FROM defender.summaries WHERE is_current ORDER BY 1",
    )
    .await
}

async fn connect(world: &World) -> PgConnection {
    PgConnection::connect_with(&world.database).await.unwrap()
}

/// Incidents are created, updated, resolved, reopened and merged, rows are deleted by several hands, and summaries are
/// written now and then.
#[tokio::test]
async fn summaries_equal_views_through_random_changes() {
    let world = World::with((1..=4).map(|number| spec(number, 25)).collect()).await;
    let mut connection = connect(&world).await;
    let mut random = Rng::with_seed(7);
    for round in 0..10 {
        world.successful_run().await;
        for tenant in world.tenants() {
            let service = world.service();
            let (one, other) =
                (service.update_random(tenant.id.0), service.update_random(tenant.id.0));
            match (random.usize(..6), one, other) {
                (0, _, _) => drop(service.create(tenant.id.0)),
                (1 | 2, Some(one), _) => assert!(service.resolve(tenant.id.0, one)),
                (3, Some(one), Some(other)) => drop(service.merge(tenant.id.0, one, other)),
                _ => {}
            }
            if random.usize(..2) == 0 {
                world.store.summarise(tenant.id).await.unwrap();
            }
        }
        world.later();
        assert_exact(&mut connection, &format!("in round {round}")).await;
        delete_something(&world, &mut random).await;
        assert_exact(&mut connection, &format!("after a deletion in round {round}")).await;
    }
    for tenant in world.tenants() {
        world.store.summarise(tenant.id).await.unwrap();
    }
    assert_eq!(currents(&mut connection).await, ["1", "2", "3", "4"]);
    assert_exact(&mut connection, "with all summaries current").await;
}

/// As retention, a purge and a careless administrator do.
async fn delete_something(world: &World, random: &mut Rng) {
    let tenant = id(1 + random.usize(..4) as u128);
    let table = pick(random, &["incidents", "alerts", "evidence", "alert_devices"]);
    let rights = match random.usize(..3) {
        0 => format!(
            "SET LOCAL ROLE incident_sync_writer; SET LOCAL incident_sync.tenant_id = '{tenant}'; "
        ),
        _ => String::new(),
    };
    let delete = format!(
        "BEGIN; {rights}DELETE FROM defender.{table} WHERE ctid IN (
            SELECT ctid FROM defender.{table} WHERE tenant_id = '{tenant}' LIMIT 2); COMMIT"
    );
    sqlx::raw_sql(AssertSqlSafe(delete)).execute(&mut connect(world).await).await.unwrap();
}

/// The task is one of `count` that wait.
async fn until_it_waits(connection: &mut PgConnection, task: &JoinHandle<()>, count: usize) {
    let waiting = "SELECT wait_event_type FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while texts(connection, waiting).await.len() < count {
        assert!(!task.is_finished(), "the task ended without waiting");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A writer's transaction with a change that is not committed yet.
async fn uncommitted(connection: &mut PgConnection) -> sqlx::Transaction<'_, sqlx::Postgres> {
    let mut transaction = connection.begin().await.unwrap();
    let change = format!(
        "SET LOCAL ROLE incident_sync_writer; SET LOCAL incident_sync.tenant_id = '{}';
         UPDATE defender.incidents SET severity = 'unheard of' WHERE incident_id = 1",
        id(1)
    );
    sqlx::raw_sql(AssertSqlSafe(change)).execute(&mut *transaction).await.unwrap();
    transaction
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_waits_for_open_change() {
    let world = World::of(5).await;
    world.successful_run().await;
    let (mut admin, mut writer) = (connect(&world).await, connect(&world).await);
    for is_known in [false, true] {
        if !is_known {
            superuser(&world, "DELETE FROM defender.summaries").await;
        }
        let transaction = uncommitted(&mut writer).await;
        let store = world.store.clone();
        let summary = tokio::spawn(async move { store.summarise(TenantId(id(1))).await.unwrap() });
        until_it_waits(&mut admin, &summary, 1).await;
        transaction.commit().await.unwrap();
        summary.await.unwrap();
        assert_eq!(currents(&mut admin).await, ["1"]);
        assert_exact(&mut admin, "after the change was waited for").await;
        superuser(&world, "UPDATE defender.incidents SET severity = 'Low'").await;
        assert_eq!(currents(&mut admin).await, Vec::<String>::new());
    }

    let mut summarising = admin.begin().await.unwrap();
    let summarise = format!("SELECT defender.summarise('{}')", id(1));
    sqlx::raw_sql(AssertSqlSafe(summarise)).execute(&mut *summarising).await.unwrap();
    let change =
        tokio::spawn(async move { uncommitted(&mut writer).await.commit().await.unwrap() });
    until_it_waits(&mut connect(&world).await, &change, 1).await;
    summarising.commit().await.unwrap();
    change.await.unwrap();
    assert_eq!(currents(&mut admin).await, Vec::<String>::new());
    assert_exact(&mut admin, "after a change that came later").await;
}

/// A change of one statement, as a batch of a purge is: no later statement would notice for it.
#[tokio::test(flavor = "multi_thread")]
async fn change_during_summary_write_is_noticed() {
    let world = World::of(5).await;
    world.successful_run().await;
    let (mut admin, mut blocker, mut writer) =
        (connect(&world).await, connect(&world).await, connect(&world).await);
    let mut half_way = blocker.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE defender.users_open IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *half_way)
        .await
        .unwrap();
    let store = world.store.clone();
    let summary = tokio::spawn(async move { store.summarise(TenantId(id(1))).await.unwrap() });
    until_it_waits(&mut admin, &summary, 1).await;
    let change =
        tokio::spawn(async move { uncommitted(&mut writer).await.commit().await.unwrap() });
    until_it_waits(&mut admin, &change, 2).await;
    half_way.commit().await.unwrap();
    summary.await.unwrap();
    change.await.unwrap();
    assert_eq!(currents(&mut admin).await, Vec::<String>::new());
    assert_exact(&mut admin, "after a change that came in between").await;
}

/// As during a first sync. A plan that counts all incidents once for each of them takes ten seconds.
#[tokio::test]
async fn summaries_written_quickly_without_statistics() {
    let world = World::with(vec![spec(1, 100)]).await;
    world.successful_run().await;
    let mut connection = connect(&world).await;
    let analysed = "SELECT relname::text FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL OR last_autoanalyze IS NOT NULL";
    assert_eq!(texts(&mut connection, analysed).await, Vec::<String>::new());
    let summarise = world.store.summarise(TenantId(id(1)));
    tokio::time::timeout(Duration::from_secs(3), summarise).await.unwrap().unwrap();
    assert_eq!(currents(&mut connection).await, ["1"]);
}

#[tokio::test]
async fn summary_days_continue_without_changes() {
    let world = World::of(20).await;
    world.successful_run().await;
    superuser(&world, "UPDATE defender.incidents SET created_time = created_time - interval '9 days', resolved_at = resolved_at - interval '9 days'")
        .await;
    world.store.summarise(TenantId(id(1))).await.unwrap();
    // As if they had been written four days ago.
    superuser(&world, "UPDATE defender.summaries SET through = through - 4").await;
    superuser(
        &world,
        "DELETE FROM defender.incident_days d USING defender.summaries s WHERE d.day > s.through",
    )
    .await;
    let mut connection = connect(&world).await;
    assert_eq!(currents(&mut connection).await, ["1"]);
    assert_exact(&mut connection, "four days later").await;
}

#[tokio::test]
async fn refresh_skips_current_leased_and_partial_tenants() {
    let world = World::with((1..=3).map(|number| spec(number, 5)).collect()).await;
    world.successful_run().await;
    let mut connection = connect(&world).await;
    assert_eq!(currents(&mut connection).await, Vec::<String>::new());
    // One is worked on, and one has not all of its history yet.
    let state = format!(
        "UPDATE defender.sync_state SET lease_owner = 'somebody' WHERE tenant_id = '{}'",
        id(1)
    );
    superuser(&world, &state).await;
    superuser(
        &world,
        &format!(
            "UPDATE defender.sync_state SET backfilled_at = NULL WHERE tenant_id = '{}'",
            id(3)
        ),
    )
    .await;
    incident_sync::daemon::summary_refresh::bring_up_to_date(&world.store).await.unwrap();
    assert_eq!(currents(&mut connection).await, ["2"]);
    assert_exact(&mut connection, "with one that is current").await;
    superuser(&world, "UPDATE defender.sync_state SET lease_owner = NULL, backfilled_at = now()")
        .await;
    incident_sync::daemon::summary_refresh::bring_up_to_date(&world.store).await.unwrap();
    assert_eq!(currents(&mut connection).await, ["1", "2", "3"]);
}
