//! Faults of network, commits and poolers before a real Postgres: nothing is lost or doubled, and work resumes by itself.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use incident_sync::api::ApiClient;
use incident_sync::context;
use incident_sync::http_client;
use incident_sync::store::quota::{Quota, Quotas};
use incident_sync::store::runs::Outcome;
use incident_sync::store::{Store, apply_migrations};
use incident_sync::sync::engine::{SyncEngine, SyncSettings};
use incident_sync::sync::page_fetcher::Services;
use incident_sync::sync::progress::Progress;
use incident_sync::sync::retry::RetryPolicy;
use incident_sync::sync::schedule::Schedule;
use incident_sync::sync::tenant_run::SyncMode;
use incident_sync::tenant::TokenVersion;
use simulator::TenantSpec;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::fault_proxy::{Fault, Way, proxied};
use crate::support::folder::open_folder;
use crate::support::server::OwnServer;
use crate::support::truth;
use crate::support::world::{World, id, spec};

/// An instance that reaches the database this way, and tries again after pauses like these.
async fn engine(
    world: &World,
    database: &PgConnectOptions,
    connections: u32,
    retry_policy: RetryPolicy,
) -> Arc<SyncEngine> {
    let client = http_client::client();
    let store = Store::open(database, connections, "troubled".to_owned(), false).await.unwrap();
    let store = store.with_patience(Duration::from_secs(3));
    let quota = Quotas::equal(Quota::new(1_000_000, None));
    let services = Services {
        api: ApiClient::new(client.clone()).with_clock_skew_max(TimeDelta::MAX),
        retry_policy,
        ..context::services_of(client, store, quota, connections)
    };
    let settings = SyncSettings {
        are_all: true,
        tenants: world.tenants().iter().map(|tenant| (tenant.id.0, Arc::clone(tenant))).collect(),
        concurrency: 8,
        overlap: Duration::from_secs(600),
        recheck: Duration::from_secs(6 * 3600),
        lookback: Duration::from_secs(180 * 86_400),
        reconcile: Duration::from_secs(7 * 86_400),
        schedule: Schedule::new("* * * * * *", "0 20 * * * *", "0 30 3 * * *").unwrap(),
    };
    Arc::new(SyncEngine::new(services, settings, Progress::hidden(), CancellationToken::new()))
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
async fn cut_at_any_commit_loses_and_doubles_nothing() {
    let tenants: Vec<TenantSpec> = (1..=40).map(|tenant| spec(tenant, 12)).collect();
    let world = World::with(tenants).await;
    let (proxy, through) = proxied(&world.database).await;
    let quick = RetryPolicy { first_pause: Duration::from_millis(1), retries: 3 };
    let engine = engine(&world, &through, 4, quick).await;
    let mut tenants = 1..=40;
    let faults: [fn(usize) -> Fault; 2] = [Fault::CutBeforeCommit, Fault::CutAfterCommit];
    for fault in faults {
        let mut commits = 0;
        loop {
            let (tenant, struck) = ([id(tenants.next().unwrap())], proxy.struck());
            proxy.stage(fault(commits));
            // An operator's command may fail, and is repeated.
            let mut results = match engine.run_once(&tenant, SyncMode::Incremental).await {
                Ok(results) => results,
                Err(_) => engine.run_once(&tenant, SyncMode::Incremental).await.unwrap(),
            };
            let result = results.pop().expect("no forgotten lease keeps the tenant");
            assert_eq!(
                result.outcome,
                Outcome::Ok,
                "commit {commits}: {:?}",
                result.report.failure
            );
            if proxy.struck() == struck {
                break;
            }
            commits += 1;
        }
        // Claim, gaps, turn, known versions, page and the end at least.
        assert!(commits >= 6, "{commits}");
        proxy.stage(Fault::None);
    }
    let ids: Vec<_> = world.tenants().iter().map(|tenant| tenant.id.0).collect();
    for result in engine.run_once(&ids, SyncMode::Incremental).await.unwrap() {
        assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    }
    world.assert_truth().await;
    assert_nothing_doubled(&world).await;
}

/// From the moment when the network is well again.
const PROMISED_RETURN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn work_resumes_soon_after_each_network_fault() {
    let world = World::of(20).await;
    let (proxy, through) = proxied(&world.database).await;
    let engine = engine(&world, &through, 4, RetryPolicy::default()).await;
    let wake = Notify::new();
    let ticks = async {
        while !engine.stop.is_cancelled() {
            wake.notify_one();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let story = async {
        let one_at_a_time = Fault::Drip(100, Duration::from_millis(1));
        for fault in [
            Fault::Refuse,
            Fault::Swallow,
            Fault::Freeze,
            Fault::Cut(Way::ToClient, 2_000),
            one_at_a_time,
        ] {
            world.service().create(id(1));
            world.later();
            proxy.stage(fault);
            tokio::time::sleep(Duration::from_millis(800)).await;
            proxy.stage(Fault::None);
            let known = world.service().truth(id(1)).len() as i64;
            let is_stored = async {
                while world.number("SELECT count(*) FROM defender.incidents").await < known {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(PROMISED_RETURN, is_stored)
                .await
                .unwrap_or_else(|_| panic!("not after {fault:?}"));
        }
        engine.stop.cancel();
    };
    tokio::join!(engine.run(&wake), ticks, story).0.unwrap();
    world.assert_truth().await;
    assert_nothing_doubled(&world).await;
}

/// A pooler in transaction mode before this server, with two connections to it for everybody.
struct Pooler {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Pooler {
    /// Nothing where it is not installed.
    fn before(server: &PgConnectOptions) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .find(|path| Path::new(path).exists())?;
        let folder = open_folder("is-pooler-");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (settings, server_port) = (folder.path().join("pgbouncer.ini"), server.get_port());
        let text = format!(
            "[databases]\nincident_sync = host=127.0.0.1 port={server_port} user=incident_sync\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 2\nignore_startup_parameters = extra_float_digits,options\n"
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new(program);
        if nix::unistd::geteuid().is_root() {
            // It refuses to be root.
            let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
            command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
        }
        let child = command.arg("-q").arg(settings).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { child, port, _folder: folder })
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn transaction_pooler_works_before_postgres() {
    let server = OwnServer::with(&[]).await;
    let Some(pooler) = Pooler::before(&server.options()) else {
        eprintln!("skipped: pgbouncer is not installed");
        return;
    };
    apply_migrations(&server.options()).await.unwrap();
    let tenants = (1..=6).map(|tenant| spec(tenant, 120)).collect();
    let world = World::on(server.options(), tenants, TokenVersion::V2).await;
    let through = server.options().port(pooler.port).statement_cache_capacity(0);
    let reached = async { while PgConnection::connect_with(&through).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("the pooler answers");
    // Nothing is pending, so nothing is locked for the session.
    apply_migrations(&through).await.unwrap();
    world.pool().close().await;
    let engine = engine(&world, &through, 6, RetryPolicy::default()).await;
    let ids: Vec<_> = world.tenants().iter().map(|tenant| tenant.id.0).collect();
    for _ in 0..2 {
        for tenant in &ids {
            world.service().create(*tenant);
        }
        world.later();
        for result in engine.run_once(&ids, SyncMode::Incremental).await.unwrap() {
            assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
        }
    }
    let (ours, servers) = (engine.services().store.pool().size(), server.backends().await.len());
    assert!(ours > 2 && servers <= 2, "{ours} connections of ours on {servers}");
    let direct = PgPool::connect_with(server.options()).await.unwrap();
    for tenant in world.tenants() {
        let expected = truth::expected(&world.service().truth(tenant.id.0));
        truth::assert_same(&truth::stored(&direct, tenant.id.0).await, &expected, &tenant.name);
    }
}

#[tokio::test]
async fn quarantine_run_retries_after_a_database_failure() {
    let world = World::of(1).await;
    world.successful_run().await;
    let quick = RetryPolicy { first_pause: Duration::from_millis(1), retries: 3 };
    let engine = engine(&world, &world.database, 4, quick).await;
    let mut lock = world.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE defender.rejected_payloads IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    // Longer than the engine waits for one answer, shorter than for two.
    let unlock = async {
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        lock.rollback().await.unwrap();
    };

    let tenant = [id(1)];
    let (results, ()) = tokio::join!(engine.run_once(&tenant, SyncMode::Quarantine), unlock);

    let result = results.unwrap().remove(0);
    assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
}
