//! What a database goes through in its life, done to a real one: nothing is lost or doubled, and work goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use incident_sync::defender::Incidents;
use incident_sync::entra::Tokens;
use incident_sync::http;
use incident_sync::pages::{Parties, writers};
use incident_sync::pass::{Engine, Settings};
use incident_sync::progress::Progress;
use incident_sync::retry::Pace;
use incident_sync::schedule::Schedule;
use incident_sync::simulator::TenantSpec;
use incident_sync::slots::Slots;
use incident_sync::store::Store;
use incident_sync::store::quota::Quota;
use incident_sync::store::runs::Outcome;
use incident_sync::tenant_run::Asked;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio_util::sync::CancellationToken;

use crate::support::fault_proxy::{Fault, Proxy, Upstream};
use crate::support::world::{World, id, spec};

/// A proxy before the database, and how to connect through it.
async fn proxied(database: &PgConnectOptions) -> (Proxy, PgConnectOptions) {
    let socket = database.get_socket().unwrap().join(".s.PGSQL.5432");
    let proxy = Proxy::before(Upstream::Unix(socket)).await;
    let options = PgConnectOptions::new_without_pgpass()
        .host(&proxy.address.ip().to_string())
        .port(proxy.address.port())
        .username(database.get_username())
        .database(database.get_database().unwrap())
        .ssl_mode(PgSslMode::Disable);
    (proxy, options)
}

/// An instance that reaches the database this way, and tries again after pauses like these.
async fn engine(world: &World, database: &PgConnectOptions, connections: u32, pace: Pace) -> Arc<Engine> {
    let client = http::client();
    let parties = Parties {
        tokens: Tokens::new(client.clone()),
        incidents: Incidents::new(client),
        quota: Quota::new(1_000_000, 1_000_000),
        store: Store::open(database, connections, "troubled".to_owned(), false).await.unwrap(),
        pace,
        writers: writers(connections),
        slots: Slots::default(),
    };
    let settings = Settings {
        tenants: world.tenants().iter().map(|tenant| (tenant.id.0, Arc::clone(tenant))).collect(),
        concurrency: 8,
        overlap: Duration::from_secs(600),
        lookback: Duration::from_secs(180 * 86_400),
        reconcile: Duration::from_secs(7 * 86_400),
        schedule: Schedule::new("* * * * * *", "0 20 * * * *", "0 30 3 * * *").unwrap(),
    };
    Arc::new(Engine::new(parties, settings, Progress::hidden(), CancellationToken::new()))
}

/// Nothing was stored twice, and no run was recorded twice.
async fn assert_nothing_doubled(world: &World) {
    let incidents = world.number("SELECT count(*) FROM defender.incidents").await;
    let first_sights = "SELECT count(*) FROM defender.incident_changes WHERE field = 'created'";
    assert_eq!(world.number(first_sights).await, incidents);
    let twice = "SELECT count(*) - count(DISTINCT (tenant_id, instance, started_at)) FROM defender.sync_runs";
    assert_eq!(world.number(twice).await, 0);
}

#[tokio::test]
async fn whichever_commit_is_cut_off_nothing_is_lost_or_doubled() {
    let tenants: Vec<TenantSpec> = (1..=40).map(|tenant| spec(tenant, 12)).collect();
    let world = World::with(tenants).await;
    let (proxy, through) = proxied(&world.database).await;
    let quick = Pace { first_pause: Duration::from_millis(1), retries: 3 };
    let engine = engine(&world, &through, 4, quick).await;
    let mut tenants = 1..=40;
    let faults: [fn(usize) -> Fault; 2] = [Fault::CutBeforeCommit, Fault::CutAfterCommit];
    for fault in faults {
        let mut commits = 0;
        loop {
            let (tenant, struck) = ([id(tenants.next().unwrap())], proxy.struck());
            proxy.stage(fault(commits));
            // An operator's command may fail, and is given once more.
            let mut results = match engine.run_once(&tenant, Asked::News).await {
                Ok(results) => results,
                Err(_) => engine.run_once(&tenant, Asked::News).await.unwrap(),
            };
            let result = results.pop().expect("the tenant is not left to a lease that nobody knows of");
            assert_eq!(result.outcome, Outcome::Ok, "commit {commits}: {:?}", result.report.failure);
            if proxy.struck() == struck {
                break;
            }
            commits += 1;
        }
        // Claim, holes, turn, known versions, page and the end at least.
        assert!(commits >= 6, "{commits}");
        proxy.stage(Fault::None);
    }
    let ids: Vec<_> = world.tenants().iter().map(|tenant| tenant.id.0).collect();
    for result in engine.run_once(&ids, Asked::News).await.unwrap() {
        assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    }
    world.assert_truth().await;
    assert_nothing_doubled(&world).await;
}
