//! Purge, seizure and park of a tenant, also beside a run of that tenant.

use std::collections::BTreeMap;
use std::time::Duration;

use incident_sync::error::SyncError;
use incident_sync::store::runs::Outcome;
use incident_sync::tenant::TenantId;
use simulator::{Behaviour, Endpoint, ScriptedReply, TenantSpec};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::roles::{crowded, superuser, texts};
use crate::support::world::{World, id, spec};

/// How many rows each table of the catalog has of a tenant.
async fn rows_of(connection: &mut PgConnection, tenant: Uuid) -> BTreeMap<String, i64> {
    let tables = "SELECT relname::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = 'defender'::regnamespace AND relkind = 'r' AND attname = 'tenant_id'";
    let mut counts = BTreeMap::new();
    for table in texts(connection, tables).await {
        let count = format!("SELECT count(*) FROM defender.{table} WHERE tenant_id = '{tenant}'");
        let count: i64 =
            sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *connection).await.unwrap();
        counts.insert(table, count);
    }
    counts
}

/// And the deletions, which pipelines still read.
fn assert_only_the_audit_is_left(counts: &BTreeMap<String, i64>) {
    for (table, count) in counts {
        let is_kept = ["audit", "deletions"].contains(&table.as_str());
        assert_eq!(*count > 0, is_kept, "{count} rows in {table}");
    }
}

#[tokio::test]
async fn repeated_purge_keeps_audit_and_other_tenants() {
    let world = crowded().await;
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    // A table that a later release might add.
    let later = format!(
        "CREATE TABLE defender.later (tenant_id uuid); SELECT defender.protect('defender.later');
         GRANT SELECT, DELETE ON defender.later TO incident_sync_writer;
         INSERT INTO defender.later VALUES ('{0}'), ('{1}');
         INSERT INTO defender.reader_tenants VALUES ('of_both', '{0}', 0), ('of_both', '{1}', 0)",
        id(1),
        id(3)
    );
    superuser(&world, &later).await;
    let before = rows_of(&mut admin, id(1)).await;
    let (tenant, store) = (TenantId(id(3)), world.store.clone());
    let (begun, mut first_batch) = tokio::sync::mpsc::unbounded_channel();
    let interrupted = tokio::spawn(async move {
        let on_batch = |_: &str, _| {
            begun.send(()).unwrap();
            // The abort below finds a purge that has deleted one batch.
            std::thread::sleep(Duration::from_millis(50));
        };
        let _ = store.purge(tenant, "test", on_batch).await;
    });
    first_batch.recv().await.unwrap();
    interrupted.abort();
    let _ = interrupted.await;
    let half = rows_of(&mut admin, id(3)).await;
    assert!(
        half["tenants"] == 1 && half["sync_state"] == 1 && half["alert_devices"] == 0,
        "{half:?}"
    );
    let watermark = world.state(id(3), "watermark").await;
    assert_eq!(watermark, None, "a new sync would read from the beginning");

    let counts = world.store.purge(tenant, "test", |_, _| ()).await.unwrap();
    assert!(
        counts["incidents"] > 0 && counts["later"] == 1 && counts["reader_tenants"] == 1,
        "{counts:?}"
    );
    assert_only_the_audit_is_left(&rows_of(&mut admin, id(3)).await);
    assert_eq!(rows_of(&mut admin, id(1)).await, before);
    let audit = format!(
        "SELECT concat_ws(' ', action, actor, row_counts ->> 'incidents') FROM defender.audit
         WHERE tenant_id = '{}' AND action <> 'retention' ORDER BY audit_id",
        id(3)
    );
    let ended = format!("purged test {}", counts["incidents"]);
    assert_eq!(texts(&mut admin, &audit).await, ["purge begun test", "purge begun test", &ended]);
}

#[tokio::test(flavor = "multi_thread")]
async fn summaries_written_during_purge_are_removed() {
    let world = World::with(vec![spec(1, 100)]).await;
    world.successful_run().await;
    let tenant = TenantId(id(1));
    world.store.summarise(tenant).await.unwrap();
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    let mut times = 0;
    let on_batch = |table: &str, _| {
        // After the summaries themselves.
        if table == "users_open" {
            let summarise = async { world.store.summarise(tenant).await.unwrap() };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(summarise));
            times += 1;
        }
    };
    world.store.purge(tenant, "test", on_batch).await.unwrap();
    assert_eq!(times, 1);
    world.store.summarise(tenant).await.unwrap();
    assert_only_the_audit_is_left(&rows_of(&mut admin, id(1)).await);
}

#[tokio::test]
async fn running_sync_writes_nothing_after_seizure() {
    let world = World::with(vec![spec(1, 300)]).await;
    let slow = ScriptedReply::Delay(Duration::from_secs(2));
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::Pass, ScriptedReply::Pass, slow],
    );
    let stored = "SELECT count(*) FROM defender.incidents";
    let (command, _) = world.other_instance("command", 1).await;
    let take_lease = async {
        while world.number(stored).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let lease = command.take_lease(TenantId(id(1))).await.unwrap();
        assert_eq!(lease.tenant, TenantId(id(1)));
        world.number(stored).await
    };
    let (results, then) = tokio::join!(world.run(), take_lease);
    assert_eq!(results[0].outcome, Outcome::Stopped);
    assert_eq!(world.number(stored).await, then);
    assert!(world.run().await.is_empty(), "nor does another run begin");
}

#[tokio::test]
async fn running_sync_stops_when_parked_and_later_resumes() {
    let world = World::with(vec![spec(1, 300)]).await;
    let slow = ScriptedReply::Delay(Duration::from_secs(2));
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::Pass, ScriptedReply::Pass, slow],
    );
    let stored = "SELECT count(*) FROM defender.incidents";
    let (tenant, until_resumed) =
        (TenantId(id(1)), "SELECT count(*) FROM defender.sync_state WHERE parked_by IS NULL");
    let park = async {
        while world.number(stored).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(world.store.park(tenant, "ann@host", None).await.unwrap());
        world.number(stored).await
    };
    let (results, then) = tokio::join!(world.run(), park);
    assert_eq!(results[0].outcome, Outcome::Stopped);
    assert_eq!(world.number(stored).await, then);
    assert_eq!(world.state(id(1), "error_message").await.as_deref(), Some("parked by ann@host"));
    world.clear_parking().await;
    assert!(world.run().await.is_empty(), "neither a reload nor a command starts another run");
    assert!(world.store.claim_due(&[id(1)], 1).await.unwrap().is_empty(), "nor does the schedule");
    assert_eq!(world.number(until_resumed).await, 0);

    assert!(world.store.resume(tenant, "ann@host").await.unwrap());
    assert_eq!(world.state(id(1), "error_class").await, None);
    world.successful_run().await;
    world.assert_settled().await;
    assert!(!world.store.resume(tenant, "ann@host").await.unwrap(), "it is parked no more");
}

#[tokio::test]
async fn resumed_tenant_is_due_and_keeps_its_error() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let world = World::with(vec![TenantSpec { behaviour: without_consent, ..spec(1, 9) }]).await;
    assert_eq!(world.run().await[0].outcome, Outcome::Parked);
    assert!(world.store.claim_due(&[id(1)], 1).await.unwrap().is_empty());
    assert!(world.store.resume(TenantId(id(1)), "ann@host").await.unwrap());
    assert_eq!(world.state(id(1), "error_class").await.as_deref(), Some("consent_missing"));
    assert_eq!(world.store.claim_due(&[id(1)], 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn erasure_after_lost_lease_changes_nothing() {
    let world = World::of(5).await;
    world.successful_run().await;
    let tenant = TenantId(id(1));
    let (first, _) = world.other_instance("first", 1).await;
    let (second, _) = world.other_instance("second", 1).await;
    let lease = first.take_lease(tenant).await.unwrap();
    let mut rows = first.locked_rows(tenant).await.unwrap();
    let incidents = rows.tables.iter().position(|table| table.name == "incidents").unwrap();
    rows.open(incidents).await.unwrap();
    let changed = rows.next().await.unwrap()[0].replace("Active", "Resolved");
    assert_eq!(rows.update(incidents, &format!("[{changed}]")).await.unwrap(), 1);
    second.take_lease(tenant).await.unwrap();
    let before = truth(&world).await;
    let lost = rows.finish("person erased", "test", &BTreeMap::new(), Some(lease)).await;
    assert!(matches!(lost, Err(SyncError::LeaseLost)), "{lost:?}");
    assert_eq!(truth(&world).await, before);
    assert_eq!(world.state(id(1), "lease_owner").await.as_deref(), Some("second"));
}

/// Every stored incident.
async fn truth(world: &World) -> Vec<String> {
    sqlx::query_scalar("SELECT i::text FROM defender.incidents i ORDER BY 1")
        .fetch_all(world.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn running_sync_restores_nothing_after_purge() {
    let world = World::with(vec![spec(1, 300), spec(2, 30)]).await;
    let slow = ScriptedReply::Delay(Duration::from_secs(2));
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::Pass, ScriptedReply::Pass, slow],
    );
    let purge = async {
        let stored = "SELECT count(*) FROM defender.incidents WHERE tenant_id = '00000000-0000-0000-0000-000000000000'";
        let stored = stored.replace("00000000-0000-0000-0000-000000000000", &id(1).to_string());
        while sqlx::query_scalar::<_, i64>(AssertSqlSafe(stored.as_str()))
            .fetch_one(world.pool())
            .await
            .unwrap()
            == 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.store.purge(TenantId(id(1)), "test", |_, _| ()).await.unwrap()
    };
    let (results, counts) = tokio::join!(world.run(), purge);
    assert!(counts["incidents"] > 0);
    let outcomes: Vec<Outcome> = results.iter().map(|result| result.outcome).collect();
    assert_eq!(outcomes, [Outcome::Stopped, Outcome::Ok]);
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    assert_only_the_audit_is_left(&rows_of(&mut admin, id(1)).await);
    assert_eq!(world.run().await.len(), 1, "and no other run of it begins");
}
