//! Runs are complete, write each change once, and write nothing where nothing changed.

use std::time::Duration;

use incident_sync::incident::rows::PageRows;
use incident_sync::store::DatabaseClock;
use incident_sync::store::runs::Outcome;
use incident_sync::store::write_page::PagePosition;
use incident_sync::sync::engine::{ReloadTrigger, SyncSettings};
use incident_sync::sync::page_fetcher::PageFetcher;
use incident_sync::sync::page_writer::PageWriter;
use incident_sync::sync::progress::Progress;
use incident_sync::sync::schedule::Schedule;
use incident_sync::sync::tenant_run::{RunOptions, SyncMode, TenantRun};
use simulator::{Behaviour, Endpoint, Order, ScriptedReply, TenantSpec};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::poll::until;
use crate::support::world::{World, id, spec};

#[tokio::test]
async fn first_run_stores_all_and_second_writes_nothing() {
    let world = World::of(350).await;
    world.successful_run().await;
    world.assert_settled().await;
}

#[tokio::test]
async fn tenants_changing_while_paged_lose_nothing() {
    let orders =
        [Order::NewestFirst, Order::OldestFirst, Order::ById, Order::ByCreated, Order::Hashed];
    let specs =
        (0..20).map(|at| TenantSpec { order: orders[at % 5], ..spec(at as u128, 350) }).collect();
    let world = World::with(specs).await;
    for tenant in world.tenants() {
        world.service().churn(tenant.id.0, 3);
    }
    for _ in 0..3 {
        world.successful_run().await;
        assert_eq!(world.number(STALE_BELOW_WATERMARK).await, 0);
        world.service().advance(Duration::from_secs(300));
    }
    for tenant in world.tenants() {
        world.service().churn_stop(tenant.id.0);
    }
    world.later();
    world.successful_run().await;
    world.assert_settled().await;
}

/// Rows that claim to be newer than what their tenant's watermark allows to miss cannot be counted in SQL alone; rows
/// without payload or with a payload of another version can.
const STALE_BELOW_WATERMARK: &str = "SELECT count(*) FROM defender.incidents i LEFT JOIN defender.incident_payloads p
    USING (tenant_id, incident_id)
    WHERE date_trunc('milliseconds', (p.payload->>'lastUpdateTime')::timestamptz) - date_trunc('milliseconds', i.last_update_time)
        NOT BETWEEN interval '-2 ms' AND interval '2 ms'";

#[tokio::test]
async fn list_in_random_order_loses_nothing() {
    let world = World::with(vec![TenantSpec { order: Order::Random, ..spec(1, 450) }]).await;
    world.successful_run().await;
    world.assert_settled().await;
}

#[tokio::test]
async fn failed_page_keeps_watermark_for_the_next_run() {
    let world = World::of(1_200).await;
    let storm =
        std::iter::repeat_with(|| ScriptedReply::defender(500, "InternalServerError")).take(40);
    let replies = std::iter::repeat_with(|| ScriptedReply::Pass).take(6).chain(storm).collect();
    world.service().script(id(1), Endpoint::Incidents, replies);
    let results = world.run().await;
    assert_eq!(results[0].outcome, Outcome::Failed);
    let watermark =
        world.state(id(1), "watermark").await.expect("whole windows were stored before the storm");
    assert_eq!(world.state(id(1), "backfilled_at").await, None);
    assert_eq!(world.state(id(1), "consecutive_failures").await.as_deref(), Some("1"));
    let stored = world.number("SELECT count(*) FROM defender.incidents").await;
    assert!((100..1_200).contains(&stored), "{stored}");

    world.service().script(id(1), Endpoint::Incidents, vec![]);
    world.service().clear_calls(id(1));
    for _ in 0..40 {
        if world.run().await[0].outcome == Outcome::Ok {
            break;
        }
    }
    let calls = world.service().calls(id(1));
    let first = calls
        .iter()
        .find(|call| call.status == 200 && call.endpoint == Endpoint::Incidents)
        .unwrap();
    let day = &watermark[..10].replace(' ', "T");
    assert!(first.query.contains(day), "{} does not begin at {watermark}", first.query);
    assert_eq!(world.state(id(1), "error_class").await, None);
    world.assert_settled().await;
}

/// One run of the only tenant, which ends after two pages if the next run can resume there.
async fn short_run(world: &World, mode: SyncMode) -> (bool, bool) {
    let claim = world.store.claim_named(&[id(1)], 1).await.unwrap().remove(0);
    let day = Duration::from_secs(86_400);
    let options = RunOptions {
        overlap: day / 144,
        overlap_min: day / 144,
        recheck: day / 4,
        lookback: day * 180,
        reconcile: day * 7,
        mode,
        pages_max: 2,
    };
    let (stop, progress) = (CancellationToken::new(), Progress::hidden().tenant("tenant-1"));
    let (tenant, services) = (&world.tenants()[0], world.engine.services());
    let clock = DatabaseClock::showing(claim.claimed_at);
    let mut pages = PageFetcher::new(services, tenant, &stop, clock, progress);
    let mut writer = PageWriter::new(services, tenant, &claim, options.overlap, options.overlap);
    let run = TenantRun {
        services,
        tenant,
        claim: &claim,
        options,
        pages: &mut pages,
        writer: &mut writer,
    };
    let report = run.run().await;
    assert!(report.failure.is_none(), "{:?}", report.failure);
    sqlx::query("UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL")
        .execute(world.pool())
        .await
        .unwrap();
    (report.is_drained, report.watermark > claim.watermark)
}

#[tokio::test]
async fn run_is_cut_only_where_next_resumes() {
    let world = World::of(900).await;
    assert_eq!(
        short_run(&world, SyncMode::Incremental).await,
        (false, true),
        "a backfill resumes at its watermark"
    );
    while short_run(&world, SyncMode::Incremental).await != (true, false) {}
    // The watermark stands still here, so that a run that was cut short would start over every time.
    assert_eq!(short_run(&world, SyncMode::Full).await, (true, false));
    world.assert_truth().await;
}

#[tokio::test]
async fn success_time_is_the_start_of_its_run() {
    let world = World::of(20).await;
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::Delay(Duration::from_millis(400))],
    );
    world.successful_run().await;
    let late = "SELECT count(*) FROM defender.sync_state s JOIN defender.sync_runs r USING (tenant_id)
        WHERE s.last_success_at = r.started_at AND r.finished_at > r.started_at + interval '300 ms'";
    assert_eq!(world.number(late).await, 1);
}

#[tokio::test]
async fn tables_follow_incidents_as_they_change() {
    let world = World::with((1..=4).map(|at| spec(at, 60)).collect()).await;
    world.successful_run().await;
    for _ in 0..5 {
        for tenant in world.tenants() {
            world.service().live(tenant.id.0, 20);
        }
        world.service().advance(Duration::from_secs(300));
        world.successful_run().await;
    }
    // Alerts that changed without their incident are found by a reading of everything.
    world.later();
    for result in world.run_in_mode(SyncMode::Full).await {
        assert_eq!(result.outcome, Outcome::Ok);
    }
    world.assert_settled().await;
}

#[tokio::test]
async fn merged_incident_keeps_row_and_moves_alerts() {
    let world = World::of(5).await;
    world.successful_run().await;
    let alerts_before =
        world.number("SELECT count(*) FROM defender.alerts WHERE incident_id = 2").await;
    assert!(alerts_before > 0);
    world.later();
    assert!(world.service().merge(id(1), 2, 3));
    world.later();
    world.successful_run().await;
    assert_eq!(world.number("SELECT count(*) FROM defender.alerts WHERE incident_id = 2").await, 0);
    assert_eq!(
        world
            .number("SELECT redirect_incident_id FROM defender.incidents WHERE incident_id = 2")
            .await,
        3
    );
    let changes = "SELECT count(*) FROM defender.incident_changes WHERE incident_id = 2 AND field IN ('status', 'redirect_incident_id')
        AND new_value IN ('Redirected', '3')";
    assert_eq!(world.number(changes).await, 2);
    world.assert_settled().await;
}

#[tokio::test]
async fn alert_moves_to_another_incident_and_back() {
    let world = World::of(5).await;
    world.successful_run().await;
    let alert: String =
        sqlx::query_scalar("SELECT min(alert_id) FROM defender.alerts WHERE incident_id = 1")
            .fetch_one(world.pool())
            .await
            .unwrap();
    for (from, to) in [(1, 4), (4, 1)] {
        world.later();
        assert!(world.service().move_alert(id(1), &alert, from, to));
        world.later();
        world.successful_run().await;
        let now: i64 =
            sqlx::query_scalar("SELECT incident_id FROM defender.alerts WHERE alert_id = $1")
                .bind(&alert)
                .fetch_one(world.pool())
                .await
                .unwrap();
        assert_eq!(now, to);
    }
    world.assert_settled().await;
}

#[tokio::test]
async fn open_run_finds_alert_changed_without_incident() {
    let world = World::of(20).await;
    world.successful_run().await;
    let open: i64 = world
        .number("SELECT min(incident_id) FROM defender.incidents WHERE status = 'Active'")
        .await;
    world.later();
    assert!(world.service().touch_alert_only(id(1), open));
    world.later();
    world.successful_run().await;
    sqlx::query("UPDATE defender.sync_state SET poll_due_at = now() + interval '1 hour', open_due_at = now()")
        .execute(world.pool())
        .await
        .unwrap();
    let wake = Notify::new();
    let found = async {
        while world.number("SELECT count(*) FROM defender.sync_runs WHERE kind = 'open' AND outcome = 'ok' AND incidents_written = 1").await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.engine.stop.cancel();
    };
    let both = async { tokio::join!(world.engine.run(&wake), found).0.unwrap() };
    tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("the open run finds the alert");
    world.assert_truth().await;
}

#[tokio::test]
async fn changes_are_recorded_once_with_both_values() {
    let world = World::of(3).await;
    world.successful_run().await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM defender.incident_changes WHERE field = 'created'")
            .await,
        3
    );
    assert_eq!(world.number("SELECT count(*) FROM defender.incident_changes").await, 3);
    sqlx::query("UPDATE defender.incidents SET status = 'Active' WHERE incident_id = 1")
        .execute(world.pool())
        .await
        .unwrap();
    world.later();
    assert!(world.service().resolve(id(1), 1));
    world.later();
    world.successful_run().await;
    let change =
        "SELECT count(*) FROM defender.incident_changes WHERE incident_id = 1 AND field = 'status'
        AND old_value = 'Active' AND new_value = 'Resolved' AND changed_at > '2026-11-23'";
    assert_eq!(world.number(change).await, 1);
    world.assert_settled().await;
}

#[tokio::test]
async fn equal_ids_of_two_tenants_stay_apart() {
    let world = World::with(vec![
        TenantSpec { seed: 9, ..spec(1, 40) },
        TenantSpec { seed: 9, ..spec(2, 40) },
    ])
    .await;
    world.successful_run().await;
    let shared = "SELECT count(*) FROM defender.alerts a JOIN defender.alerts b USING (alert_id) WHERE a.tenant_id < b.tenant_id";
    assert!(world.number(shared).await > 0, "the simulator's tenants share alert ids");
    world.assert_settled().await;
}

#[tokio::test]
async fn two_instances_never_run_one_tenant_together() {
    let world = World::with((1..=6).map(|at| spec(at, 150)).collect()).await;
    let (_, other) = world.other_instance("other", 8).await;
    let ids: Vec<_> = world.tenants().iter().map(|tenant| tenant.id.0).collect();
    let (first, second) = tokio::join!(
        world.engine.run_once(&ids, SyncMode::Incremental),
        other.run_once(&ids, SyncMode::Incremental)
    );
    let results: Vec<_> = first.unwrap().into_iter().chain(second.unwrap()).collect();
    assert!(results.iter().all(|result| result.outcome == Outcome::Ok));
    // The second instance found each tenant done, and wrote nothing twice.
    let written: usize = results.iter().map(|result| result.report.counts.incidents_written).sum();
    assert_eq!(written, 6 * 150);
    world.assert_settled().await;
}

#[tokio::test]
async fn lost_lease_prevents_writing_a_page() {
    let world = World::of(1).await;
    let tenant = [id(1)];
    let slow = world.store.clone().with_lease_term(Duration::from_millis(1));
    let lost = slow.claim_named(&tenant, 1).await.unwrap().remove(0).lease;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (other, _) = world.other_instance("other", 1).await;
    assert_eq!(other.claim_named(&tenant, 1).await.unwrap().len(), 1, "an expired lease is free");
    let watermark = PagePosition::WindowEnd(Some("2026-01-01T00:00:00Z".parse().unwrap()));
    let refused = slow.write_page(&lost, &PageRows::default(), watermark, None).await;
    assert!(matches!(refused, Err(incident_sync::error::SyncError::LeaseLost)), "{refused:?}");
    assert_eq!(world.state(id(1), "watermark").await, None);
}

#[tokio::test]
async fn unrecorded_run_end_frees_the_tenant() {
    let hanging =
        TenantSpec { behaviour: Behaviour { hang: true, ..Behaviour::default() }, ..spec(2, 1) };
    let mut world = World::with(vec![spec(1, 1), hanging]).await;
    let refuse = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN IF NEW.tenant_id = '{}' THEN RAISE 'refused'; END IF; RETURN NEW; END$$;
        CREATE TRIGGER refuse BEFORE INSERT ON defender.sync_runs FOR EACH ROW EXECUTE FUNCTION refuse()",
        id(1)
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(world.pool()).await.unwrap();
    world.lease_term = Duration::from_secs(2);
    let (_, engine) = world.other_instance("other", 8).await;
    let wake = Notify::new();
    let looks = async {
        // The run that hangs keeps the renewals going; claiming again takes a lease that has expired.
        until("the lease is claimed again", async || {
            wake.notify_one();
            world.number("SELECT max(lease_fence) FROM defender.sync_state").await > 1
        })
        .await;
        engine.stop.cancel();
    };
    let (ended, ()) = tokio::join!(engine.run(&wake), looks);
    ended.unwrap();
}

#[tokio::test]
async fn finished_tenant_waits_for_the_next_tick() {
    let world = World::of(5).await;
    let now = world.engine.settings();
    let settings = SyncSettings {
        tenants: now.tenants.clone(),
        are_all: true,
        concurrency: 8,
        overlap: now.overlap,
        recheck: now.recheck,
        lookback: now.lookback,
        reconcile: now.reconcile,
        schedule: Schedule::new("*/2 * * * * *", "0 20 * * * *", "0 30 3 * * *").unwrap(),
    };
    world.engine.reload(settings, ReloadTrigger::OperatorRequest).await.unwrap();
    let wake = Notify::new();
    // As the end of another tenant's run would wake the dispatcher.
    let restless = async {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            wake.notify_one();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.engine.stop.cancel();
    };
    tokio::join!(world.engine.run(&wake), restless).0.unwrap();
    let polls = world.number("SELECT count(*) FROM defender.sync_runs WHERE kind = 'poll'").await;
    assert!(
        (1..=8).contains(&polls),
        "{polls} polls in six seconds, of which every other has a tick"
    );
}
