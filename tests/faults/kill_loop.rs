//! Two instances on one server are killed repeatedly while incidents change. Every other tenant is read from Graph. `KILLS=100` makes it long; `SEED` repeats the
//! choices of a run, but not its timing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, Utc};
use fastrand::Rng;
use incident_sync::failpoint::NAMES;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use simulator::{Order, TenantSpec, World};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::installation::{Installation, Running, Settings, id, number, spec, until};

const ORDERS: [Order; 7] = [
    Order::NewestFirst,
    Order::OldestFirst,
    Order::ById,
    Order::ByIdDescending,
    Order::ByCreated,
    Order::Hashed,
    Order::Random,
];
const KILLS: u64 = 8;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_instances_lose_nothing_or_run_ahead() {
    let seed = from_environment("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let kills = from_environment("KILLS").unwrap_or(KILLS);
    println!("SEED={seed} KILLS={kills}");
    let started = Instant::now();
    let site = living_site(150 + 3 * usize::try_from(kills).unwrap()).await;
    let (server, pool) = site.open_database().await;

    let rest = CancellationToken::new();
    let life = tokio::spawn(live(site.world().clone(), Rng::with_seed(seed), rest.clone()));
    let mut instances = vec![run(&site, ""), run(&site, "")];
    until("the schema", async || {
        number(&pool, "SELECT count(*) FROM defender.sync_state").await == 7
    })
    .await;
    let pipeline = tokio::spawn(follow_the_feed(pool.clone(), rest.clone()));
    let sampler =
        tokio::spawn(Sampler::default().watch(pool.clone(), site.world().clone(), rest.clone()));
    let mut random = Rng::with_seed(!seed);
    let (mut in_a_run, mut at_failpoints, mut is_armed) = (0, 0, false);
    for kill in 1..=kills {
        await_progress(&pool).await;
        tokio::time::sleep(Duration::from_millis(random.u64(..400))).await;
        // The armed one is the last that was started; it has a little more time to meet its end by itself.
        let mut killed = instances.swap_remove(if is_armed { 1 } else { random.usize(..2) });
        at_failpoints += u64::from(is_armed && died_by_itself(&mut killed).await);
        killed.dies();
        in_a_run += u64::from(let_leases_expire(&pool, &[instances[0].pid()]).await > 0);
        if random.u64(..3) == 0 {
            // As if the survivor had been frozen for longer than its leases last.
            let_leases_expire(&pool, &[]).await;
        }
        is_armed = kill % 2 == 1 && kill < kills;
        let failpoint = choose_failpoint(&mut random);
        instances.push(run(&site, if is_armed { &failpoint } else { "" }));
        assert!(!sampler.is_finished(), "the sampler found something");
    }
    await_progress(&pool).await;
    // A statement of the dead may have claimed a tenant after their leases had expired.
    let living: Vec<Pid> = instances.iter().map(Running::pid).collect();
    let_leases_expire(&pool, &living).await;
    for instance in instances {
        assert_eq!(instance.ends_on(Signal::SIGTERM).code(), Some(0));
    }
    rest.cancel();
    life.await.unwrap();
    let samples = sampler.await.unwrap();
    println!(
        "{kills} kills, {in_a_run} of them within a run, {at_failpoints} at failpoints; {samples} samples; {:?}",
        started.elapsed()
    );
    assert!(in_a_run * 4 >= kills, "the kills hit idle instances: {in_a_run} of {kills}");
    assert!(at_failpoints > 0 || kills < KILLS, "no failpoint was met");
    assert!(samples > kills, "too few looks at the watermarks: {samples}");

    assert_at_rest(&site, &pool).await;
    let mut fed = pipeline.await.unwrap();
    assert!(fed.len() > 100, "the pipeline read nothing while it was written: {}", fed.len());
    let all = "SELECT change_id FROM defender.incident_changes ORDER BY change_id";
    let all: Vec<i64> = sqlx::query_scalar(all).fetch_all(&pool).await.unwrap();
    // An ANALYZE of the server's own may hold the feed back for a moment.
    let started = Instant::now();
    while fed != all {
        assert!(started.elapsed() < Duration::from_secs(60), "the pipeline missed a change");
        read_feed(&pool, &mut fed).await;
    }
    pool.close().await;
    server.stop().await;
}

fn is_on_graph(tenant: u128) -> bool {
    tenant.is_multiple_of(2)
}

/// A tenant for each order in which the API may list, on a server that instances can share.
async fn living_site(incidents: usize) -> Installation {
    let specs =
        (1..).zip(ORDERS).map(|(number, order)| TenantSpec { order, ..spec(number, incidents) });
    let site = Installation::with(specs.collect()).await;
    let tenants: Vec<u128> = (1..=7).collect();
    site.configure(&Settings {
        database: site.shared_database(),
        poll: "* * * * * *",
        tenants: tenants.clone(),
        graph: tenants.iter().copied().filter(|tenant| is_on_graph(*tenant)).collect(),
        ..site.settings()
    });
    for tenant in tenants {
        site.world().churn(id(tenant), 1);
        site.slow_down(tenant, Duration::from_millis(20));
    }
    site
}

/// An instance that leaves tenants for the other one, and whose polls begin at the watermark and not before it: nothing
/// heals what the watermark passed over.
fn run(site: &Installation, failpoint: &str) -> Running {
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("INCIDENT_SYNC_FAILPOINTS", failpoint);
    command.env("INCIDENT_SYNC__SYNC__OVERLAP", "0s").env("INCIDENT_SYNC__SYNC__CONCURRENCY", "3");
    Running::start(command, site.folder.path())
}

/// One that an instance comes by within a second or so. A migration is made once; a renewal comes after twenty seconds, and
/// leases are released on SIGTERM.
fn choose_failpoint(random: &mut Rng) -> String {
    let name = NAMES[random.usize(..NAMES.len() - 2)];
    let time = if name.starts_with("migration") { 1 } else { 1 + random.u64(..6) };
    format!("{name}=kill@{time}")
}

/// Where its failpoint is rarely reached, it does not.
async fn died_by_itself(armed: &mut Running) -> bool {
    let waits = async {
        while armed.is_alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), waits).await.is_ok()
}

/// Incidents appear, change, merge and end, in ways that a poll must see.
async fn live(world: World, mut random: Rng, rest: CancellationToken) {
    let tenants = world.tenants();
    while !rest.is_cancelled() {
        let tenant = tenants[random.usize(..tenants.len())];
        let (one, other) =
            (world.update_random(tenant).unwrap(), world.update_random(tenant).unwrap());
        match random.u64(..10) {
            0..3 => drop(world.create(tenant)),
            3 => assert!(world.resolve(tenant, one)),
            4 => drop(world.merge(tenant, one, other)),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..150))).await;
    }
    for tenant in tenants {
        world.churn_stop(tenant);
    }
}

/// A pipeline that keeps its position.
async fn follow_the_feed(pool: PgPool, rest: CancellationToken) -> Vec<i64> {
    let mut fed = Vec::new();
    while !rest.is_cancelled() {
        read_feed(&pool, &mut fed).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fed
}

async fn read_feed(pool: &PgPool, fed: &mut Vec<i64>) {
    let news =
        "SELECT change_id FROM reporting.incident_changes WHERE change_id > $1 ORDER BY change_id";
    let position = fed.last().copied().unwrap_or(0);
    fed.extend(sqlx::query_scalar::<_, i64>(news).bind(position).fetch_all(pool).await.unwrap());
}

/// Rows are committed that were not there when this was called.
async fn await_progress(pool: &PgPool) {
    let newest = "SELECT coalesce(max(extract(epoch FROM changed_at) * 1000000), 0)::bigint FROM defender.incidents";
    let before = number(pool, newest).await;
    until("that rows are stored", async || number(pool, newest).await > before).await;
}

/// Ends the leases of all but these instances without waiting a minute. Returns how many tenants that freed.
async fn let_leases_expire(pool: &PgPool, spared: &[Pid]) -> u64 {
    let query = "UPDATE defender.sync_state SET lease_expires_at = clock_timestamp() - interval '1 ms'
        WHERE lease_expires_at > clock_timestamp() AND split_part(lease_owner, '/', 2)::integer <> ALL ($1)";
    let spared: Vec<i32> = spared.iter().map(|pid| pid.as_raw()).collect();
    sqlx::query(query).bind(spared).execute(pool).await.unwrap().rows_affected()
}

/// One clean poll makes the tables equal to what the service holds, and no change is recorded twice.
async fn assert_at_rest(site: &Installation, pool: &PgPool) {
    // Past the lag that polls keep behind the service's clock.
    site.world().advance(Duration::from_secs(60));
    let held =
        "SELECT count(*) FROM defender.sync_state WHERE lease_expires_at > clock_timestamp()";
    assert_eq!(number(pool, held).await, 0, "SIGTERM gives leases back");
    let mut sync = site.command(&["sync", "--json"]);
    sync.env("INCIDENT_SYNC__SYNC__OVERLAP", "0s");
    let sync = Running::start(sync, site.folder.path()).ends();
    assert_eq!(sync.code(), Some(0), "{}\n{}", sync.stdout, sync.stderr);
    for tenant in (1..).zip(ORDERS).map(|(number, _)| number) {
        match is_on_graph(tenant) {
            true => site.assert_graph_truth(pool, tenant).await,
            false => site.assert_truth(pool, tenant).await,
        }
    }
    let twice =
        "SELECT count(*) FROM (SELECT FROM defender.incident_changes WHERE field = 'created'
        GROUP BY tenant_id, incident_id HAVING count(*) > 1) told_twice";
    assert_eq!(number(pool, twice).await, 0, "an incident was created twice");
    assert_eq!(number(pool, "SELECT count(*) FROM defender.rejected_payloads").await, 0);
}

type Versions = BTreeMap<Uuid, BTreeMap<i64, DateTime<Utc>>>;

/// Looks at watermarks and rows while everything moves.
#[derive(Default)]
struct Sampler {
    stored: Versions,
    watermarks: BTreeMap<Uuid, DateTime<Utc>>,
    samples: u64,
}

impl Sampler {
    async fn watch(mut self, pool: PgPool, world: World, rest: CancellationToken) -> u64 {
        let world = Arc::new(world);
        while !rest.is_cancelled() {
            let before = served(&world);
            let (watermarks, stored) = snapshot(&pool).await;
            let after = served(&world);
            self.compare(&before, &after, &watermarks, &stored);
            (self.stored, self.watermarks) = (stored, watermarks);
            self.samples += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.samples
    }

    /// A version that the service held before and after the look was current during it, and ever since its own time. So
    /// the run that moved the watermark beyond that time has seen it, or a newer one.
    fn compare(
        &self,
        before: &Versions,
        after: &Versions,
        watermarks: &BTreeMap<Uuid, DateTime<Utc>>,
        stored: &Versions,
    ) {
        let none = BTreeMap::new();
        for (tenant, watermark) in watermarks {
            let (rows, earlier) =
                (stored.get(tenant).unwrap_or(&none), self.stored.get(tenant).unwrap_or(&none));
            assert!(
                self.watermarks.get(tenant) <= Some(watermark),
                "the watermark of {tenant} moved back"
            );
            for (incident, updated) in
                before[tenant].iter().filter(|(_, updated)| *updated < watermark)
            {
                if after[tenant].get(incident) == Some(updated) {
                    let row = rows.get(incident);
                    assert!(
                        row >= Some(&updated.trunc_subsecs(6)),
                        "{tenant} {incident}: {row:?} is stored, {updated} is served, and the watermark is {watermark}"
                    );
                }
            }
            for (incident, version) in earlier {
                assert!(
                    rows.get(incident) >= Some(version),
                    "{tenant} {incident}: {version} was stored before"
                );
            }
        }
    }
}

fn served(world: &World) -> Versions {
    world.tenants().into_iter().map(|tenant| (tenant, world.versions(tenant))).collect()
}

/// Watermarks and rows at one instant.
async fn snapshot(pool: &PgPool) -> (BTreeMap<Uuid, DateTime<Utc>>, Versions) {
    let mut transaction =
        pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.unwrap();
    let watermarks =
        "SELECT tenant_id, watermark FROM defender.sync_state WHERE watermark IS NOT NULL";
    let watermarks = sqlx::query_as(watermarks).fetch_all(&mut *transaction).await.unwrap();
    let rows = "SELECT tenant_id, incident_id, last_update_time FROM defender.incidents";
    let rows = sqlx::query_as::<_, (Uuid, i64, DateTime<Utc>)>(rows)
        .fetch_all(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let mut stored = Versions::new();
    for (tenant, incident, updated) in rows {
        stored.entry(tenant).or_default().insert(incident, updated);
    }
    (watermarks.into_iter().collect(), stored)
}
