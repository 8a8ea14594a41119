//! A simulated service, a database, and an engine between them.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use incident_sync::api::ApiClient;
use incident_sync::context;
use incident_sync::entra::Tenant;
use incident_sync::entra::credential::{App, Credential};
use incident_sync::http_client::{self, Deadlines};
use incident_sync::store::quota::{Quota, Quotas};
use incident_sync::store::runs::Outcome;
use incident_sync::store::tenants::RemovedTenants;
use incident_sync::store::{Store, apply_migrations};
use incident_sync::sync::engine::{SyncEngine, SyncSettings, TenantResult};
use incident_sync::sync::page_fetcher::Services;
use incident_sync::sync::progress::Progress;
use incident_sync::sync::retry::RetryPolicy;
use incident_sync::sync::schedule::Schedule;
use incident_sync::sync::tenant_run::SyncMode;
use incident_sync::tenant::{Endpoints, Retention, Source, TenantId, TokenVersion};
use reqwest::{Client, Url};
use simulator::{Clock, Encoding, Options, Simulator, TenantSpec, World as Service};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::secrets::{PASSWORD, SECRET};
use super::tenants::PLENTY;
pub(crate) use super::tenants::{id, spec};
use super::{canary, postgres, truth};

const CONNECTIONS: u32 = 4;
/// Tenants in flight.
pub(crate) const CONCURRENCY: usize = 8;

pub(crate) struct World {
    simulator: Simulator,
    /// Where it began; tests may go elsewhere.
    home: PgConnectOptions,
    pub(crate) database: PgConnectOptions,
    pub(crate) store: Store,
    pub(crate) engine: Arc<SyncEngine>,
    tenants: Vec<Arc<Tenant>>,
    pub(crate) lease_term: Duration,
}

impl World {
    /// Serves the given tenants.
    pub(crate) async fn with(specs: Vec<TenantSpec>) -> Self {
        Self::with_version(specs, TokenVersion::V2).await
    }

    pub(crate) async fn with_version(specs: Vec<TenantSpec>, token_version: TokenVersion) -> Self {
        Self::on(postgres::database().await, specs, token_version).await
    }

    /// The same, each read from its own source.
    pub(crate) async fn with_sources(specs: Vec<(Source, TenantSpec)>) -> Self {
        Self::of_sources(postgres::database().await, specs, TokenVersion::V2).await
    }

    /// Tenants that are read from Graph.
    pub(crate) async fn of_graph(specs: Vec<TenantSpec>) -> Self {
        Self::with_sources(specs.into_iter().map(|spec| (Source::Graph, spec)).collect()).await
    }

    /// Whose application proves itself by something else than its secret.
    pub(crate) async fn with_credentials(
        specs: Vec<TenantSpec>,
        first: Credential,
        next: Option<Credential>,
    ) -> Self {
        let mut world = Self::with(specs).await;
        world.use_credentials(Arc::new(first), next.map(Arc::new));
        world
    }

    /// From now on the application proves itself by these; nothing is known of them yet.
    pub(crate) fn use_credentials(
        &mut self,
        first: Arc<Credential>,
        next: Option<Arc<Credential>>,
    ) {
        let client_id = Options::default().client_id;
        let app = Arc::new(App { client_id, credential: first, next });
        let by_app = |tenant: &Arc<Tenant>| {
            Arc::new(Tenant { app: Arc::clone(&app), ..Tenant::clone(tenant) })
        };
        self.tenants = self.tenants.iter().map(by_app).collect();
        self.engine = engine_with(
            self.store.clone(),
            CONNECTIONS,
            &self.tenants,
            CONCURRENCY,
            http_client::client(),
        );
    }

    /// From now on this tenant's data is kept so long.
    pub(crate) fn keep(&mut self, tenant: usize, retention: Retention) {
        self.tenants[tenant] =
            Arc::new(Tenant { retention, ..Tenant::clone(&self.tenants[tenant]) });
        self.engine = engine_with(
            self.store.clone(),
            CONNECTIONS,
            &self.tenants,
            CONCURRENCY,
            http_client::client(),
        );
    }

    /// From now on the configuration names this source for every tenant.
    pub(crate) fn configure_source(&mut self, source: Source) {
        self.tenants = self.tenants.iter().map(|each| Arc::new(each.read_from(source))).collect();
        self.engine = engine_with(
            self.store.clone(),
            CONNECTIONS,
            &self.tenants,
            CONCURRENCY,
            http_client::client(),
        );
    }

    /// The daemon runs what is due until the query counts something.
    pub(crate) async fn run_until(&self, query: &'static str) {
        let wake = Notify::new();
        let found = async {
            while self.number(query).await == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            self.engine.stop.cancel();
        };
        let both = async { tokio::join!(self.engine.run(&wake), found).0.unwrap() };
        tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .expect("the run does what is expected of it");
    }

    pub(crate) fn url(&self) -> Url {
        self.simulator.url()
    }

    /// With its tables in this database, which is migrated.
    pub(crate) async fn on(
        database: PgConnectOptions,
        specs: Vec<TenantSpec>,
        token_version: TokenVersion,
    ) -> Self {
        let specs = specs.into_iter().map(|spec| (Source::Defender, spec)).collect();
        Self::of_sources(database, specs, token_version).await
    }

    async fn of_sources(
        database: PgConnectOptions,
        specs: Vec<(Source, TenantSpec)>,
        token_version: TokenVersion,
    ) -> Self {
        canary::watch_the_log();
        let database = database.password(PASSWORD);
        let options = Options {
            clock: Clock::Manual("2026-11-23T12:00:00Z".parse().unwrap()),
            client_secret: SECRET.to_owned(),
            encoding: Encoding::Gzip,
            ..Options::default()
        };
        let client_id = options.client_id.clone();
        let simulator = Simulator::start(options).await.unwrap();
        let app = Arc::new(App {
            client_id,
            credential: Arc::new(Credential::secret(SECRET.into())),
            next: None,
        });
        let url = simulator.url();
        let scope = format!("{url}.default");
        let endpoints = Endpoints {
            source: Source::Defender,
            authority: url.clone(),
            base_url: url,
            scope,
            other_scope: None,
            token_version,
        };
        let mut tenants = Vec::new();
        for (source, spec) in specs {
            let (id, name) = (TenantId(spec.id), spec.name.clone());
            let endpoints = Endpoints { source, ..endpoints.clone() };
            let app = Arc::clone(&app);
            tenants.push(Arc::new(Tenant::with_defaults(id, &name, endpoints, app)));
            simulator.world().add_tenant(spec);
        }
        let lease_term = Duration::from_secs(60);
        let (store, engine) =
            engine(&database, "test", &tenants, 8, lease_term, http_client::client()).await;
        store.sync_tenants(&tenants, RemovedTenants::AllOthers).await.unwrap();
        let home = database.clone();
        Self { simulator, home, database, store, engine, tenants, lease_term }
    }

    /// One healthy tenant with so many incidents.
    pub(crate) async fn of(incidents: usize) -> Self {
        Self::with(vec![spec(1, incidents)]).await
    }

    /// Another instance on the same database and service.
    pub(crate) async fn other_instance(
        &self,
        name: &str,
        concurrency: usize,
    ) -> (Store, Arc<SyncEngine>) {
        engine(
            &self.database,
            name,
            &self.tenants,
            concurrency,
            self.lease_term,
            http_client::client(),
        )
        .await
    }

    /// Another instance with so many connections.
    pub(crate) async fn instance_with_connections(&self, connections: u32) -> Arc<SyncEngine> {
        let store =
            Store::open(&self.database, connections, "few".to_owned(), false).await.unwrap();
        engine_with(store, connections, &self.tenants, CONCURRENCY, http_client::client())
    }

    /// From now on a server that does not answer is given up after so long.
    pub(crate) fn shorten_patience(&mut self, patience: Duration) {
        self.store = self.store.clone().with_patience(patience);
        self.engine = engine_with(
            self.store.clone(),
            CONNECTIONS,
            &self.tenants,
            CONCURRENCY,
            http_client::client(),
        );
    }

    /// The quotas of all tenants recover as if this time had passed.
    pub(crate) async fn pass_quotas(&self, time: Duration) {
        sqlx::query(
            "UPDATE defender.sync_state SET minute_quota_at = minute_quota_at - s, hour_quota_at = hour_quota_at - s
             FROM make_interval(secs => $1) AS s",
        )
        .bind(time.as_secs_f64())
        .execute(self.pool())
        .await
        .unwrap();
    }

    /// From now on one answer of the API is taken up to this size.
    pub(crate) fn limit_bodies(&mut self, bytes_max: usize) {
        let client = http_client::client();
        let api = ApiClient::new(client.clone())
            .with_clock_skew_max(TimeDelta::MAX)
            .with_body_bytes_max(bytes_max);
        let store = self.store.clone();
        self.engine = engine_of(store, CONNECTIONS, &self.tenants, CONCURRENCY, client, api);
    }

    /// From now on new changes are announced by NOTIFY.
    pub(crate) fn notify(&mut self) {
        self.store = self.store.clone().with_notifications(true);
        self.engine = engine_with(
            self.store.clone(),
            CONNECTIONS,
            &self.tenants,
            CONCURRENCY,
            http_client::client(),
        );
    }

    /// An instance that gets tokens and incidents from another peer than the simulator.
    pub(crate) async fn facing(&self, url: &Url, deadlines: Deadlines) -> Arc<SyncEngine> {
        let client = http_client::client_within(deadlines);
        engine(&self.database, "facing", &self.elsewhere(url), 8, self.lease_term, client).await.1
    }

    /// The same with the limit for the service's clock that holds in production.
    pub(crate) async fn facing_on_time(&self, url: &Url) -> Arc<SyncEngine> {
        let store =
            Store::open(&self.database, CONNECTIONS, "on-time".to_owned(), false).await.unwrap();
        let (client, tenants) = (http_client::client(), self.elsewhere(url));
        engine_of(store, CONNECTIONS, &tenants, CONCURRENCY, client.clone(), ApiClient::new(client))
    }

    fn elsewhere(&self, url: &Url) -> Vec<Arc<Tenant>> {
        let elsewhere = |tenant: &Arc<Tenant>| {
            let endpoints = Endpoints {
                authority: url.clone(),
                base_url: url.clone(),
                ..tenant.endpoints.clone()
            };
            Arc::new(Tenant { endpoints, ..Tenant::clone(tenant) })
        };
        self.tenants.iter().map(elsewhere).collect()
    }

    pub(crate) fn service(&self) -> &Service {
        self.simulator.world()
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.store.pool()
    }

    pub(crate) fn tenants(&self) -> &[Arc<Tenant>] {
        &self.tenants
    }

    /// Every tenant once.
    pub(crate) async fn run(&self) -> Vec<TenantResult> {
        self.run_in_mode(SyncMode::Incremental).await
    }

    pub(crate) async fn run_in_mode(&self, asked: SyncMode) -> Vec<TenantResult> {
        let ids: Vec<Uuid> = self.tenants.iter().map(|tenant| tenant.id.0).collect();
        self.engine.run_once(&ids, asked).await.unwrap()
    }

    /// Parked tenants may run again, as after a reload.
    pub(crate) async fn clear_parking(&self) {
        let ids: Vec<Uuid> = self.tenants.iter().map(|tenant| tenant.id.0).collect();
        self.store.clear_parking(&ids).await.unwrap();
    }

    /// Every tenant once, which must succeed.
    pub(crate) async fn successful_run(&self) {
        for result in self.run().await {
            assert_eq!(
                result.outcome,
                Outcome::Ok,
                "{}: {:?}",
                result.tenant.name,
                result.report.failure
            );
        }
    }

    /// Time passes, so that all that changed is behind the service's consistency lag.
    pub(crate) fn later(&self) {
        self.service().advance(Duration::from_secs(60));
    }

    /// The tables hold what the service knows.
    pub(crate) async fn assert_truth(&self) {
        for tenant in &self.tenants {
            let stored = truth::stored(self.pool(), tenant.id.0).await;
            truth::assert_same(&stored, &self.expected(tenant), &tenant.name);
        }
    }

    /// The rows that the tenant's source would fill now.
    pub(crate) fn expected(&self, tenant: &Tenant) -> truth::Tables {
        match tenant.source() {
            Source::Defender => truth::expected(&self.service().truth(tenant.id.0)),
            Source::Graph => truth::expected_of_graph(&self.service().graph_truth(tenant.id.0)),
        }
    }

    /// The tables hold what the service knows, and another run writes no tuple to any data table.
    pub(crate) async fn assert_settled(&self) {
        self.assert_truth().await;
        let before = self.tuples().await;
        self.later();
        self.successful_run().await;
        assert_eq!(self.tuples().await, before, "a run without changes wrote something");
    }

    /// A fingerprint of every tuple of the data tables: where it is and who wrote it.
    pub(crate) async fn tuples(&self) -> Vec<Option<String>> {
        const TABLES: [&str; 9] = [
            "incidents",
            "alerts",
            "devices",
            "alert_devices",
            "evidence",
            "incident_comments",
            "incident_changes",
            "incident_payloads",
            "rejected_payloads",
        ];
        let mut fingerprints = Vec::new();
        for table in TABLES {
            let query = format!(
                "SELECT md5(string_agg(ctid::text || xmin::text || xmax::text, ',' ORDER BY ctid)) FROM defender.{table}"
            );
            fingerprints.push(
                sqlx::query_scalar(sqlx::AssertSqlSafe(query))
                    .fetch_one(self.pool())
                    .await
                    .unwrap(),
            );
        }
        fingerprints
    }

    /// One value of the tenant's `sync_state`, as text.
    pub(crate) async fn state(&self, tenant: Uuid, column: &str) -> Option<String> {
        let query = format!("SELECT {column}::text FROM defender.sync_state WHERE tenant_id = $1");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .bind(tenant)
            .fetch_one(self.pool())
            .await
            .unwrap()
    }

    /// A count, or any other number.
    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(self.pool()).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut databases = vec![self.home.clone()];
        if self.database.get_database() != self.home.get_database() {
            databases.push(self.home.clone().database(self.database.get_database().unwrap()));
        }
        // A server of the test's own may have ended before.
        canary::assert_kept(databases, !postgres::is_shared(&self.home));
    }
}

/// A world in this database, with so many incidents for each tenant.
pub(crate) async fn world_on(options: PgConnectOptions, incidents: &[usize]) -> World {
    apply_migrations(&options).await.unwrap();
    let specs = (1..).zip(incidents).map(|(at, incidents)| spec(at, *incidents)).collect();
    World::on(options, specs, TokenVersion::V2).await
}

async fn engine(
    database: &PgConnectOptions,
    instance: &str,
    tenants: &[Arc<Tenant>],
    concurrency: usize,
    lease_term: Duration,
    client: Client,
) -> (Store, Arc<SyncEngine>) {
    let store = Store::open(database, CONNECTIONS, instance.to_owned(), false)
        .await
        .unwrap()
        .with_lease_term(lease_term);
    (store.clone(), engine_with(store, CONNECTIONS, tenants, concurrency, client))
}

fn engine_with(
    store: Store,
    connections: u32,
    tenants: &[Arc<Tenant>],
    concurrency: usize,
    client: Client,
) -> Arc<SyncEngine> {
    // Time stands still in these worlds, at another date than the database's.
    let api = ApiClient::new(client.clone()).with_clock_skew_max(TimeDelta::MAX);
    engine_of(store, connections, tenants, concurrency, client, api)
}

fn engine_of(
    store: Store,
    connections: u32,
    tenants: &[Arc<Tenant>],
    concurrency: usize,
    client: Client,
    api: ApiClient,
) -> Arc<SyncEngine> {
    let services = Services {
        api,
        retry_policy: RetryPolicy { first_pause: Duration::from_millis(1), retries: 3 },
        ..context::services_of(client, store, Quotas::equal(Quota::new(PLENTY, None)), connections)
    };
    let settings = SyncSettings {
        are_all: true,
        tenants: tenants.iter().map(|tenant| (tenant.id.0, Arc::clone(tenant))).collect(),
        concurrency,
        overlap: Duration::from_secs(600),
        recheck: Duration::from_secs(6 * 3600),
        lookback: Duration::from_secs(180 * 86_400),
        reconcile: Duration::from_secs(7 * 86_400),
        schedule: Schedule::new("0 */5 * * * *", "0 20 * * * *", "0 30 3 * * *").unwrap(),
    };
    Arc::new(SyncEngine::new(services, settings, Progress::hidden(), CancellationToken::new()))
}
