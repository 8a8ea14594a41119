//! The change feed: a pipeline that stores the last `change_id` and asks for greater ones misses nothing, whatever commits
//! late and whatever a crash takes back.

use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use incident_sync::store::tenants::RemovedTenants;
use incident_sync::store::{Store, apply_migrations};
use nix::sys::signal::Signal;
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::support::postgres::program;
use crate::support::roles::{log_in, reader, rows, superuser};
use crate::support::server::OwnServer;
use crate::support::world::world_on;
use crate::support::world::{World, id, spec};

const WRITERS: u64 = 6;
const TRANSACTIONS: u64 = 60;

/// A transaction of the writer's, which commits or rolls back when the test wants it.
async fn begin(connection: &mut PgConnection, tenant: u128) -> Transaction<'_, Postgres> {
    let mut transaction = connection.begin().await.unwrap();
    let rights = format!(
        "SET LOCAL ROLE incident_sync_writer; SET LOCAL incident_sync.tenant_id = '{}'",
        id(tenant)
    );
    sqlx::raw_sql(AssertSqlSafe(rights)).execute(&mut *transaction).await.unwrap();
    transaction
}

async fn change(connection: &mut PgConnection, tenant: u128, what: &str) {
    let insert = "INSERT INTO defender.incident_changes (tenant_id, incident_id, field, new_value) VALUES ($1, 1, 'status', $2)";
    sqlx::query(insert).bind(id(tenant)).bind(what).execute(connection).await.unwrap();
}

/// What a program of Postgres's printed.
fn tool(name: &str, server: &PgConnectOptions, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program(name));
    command.args(["--host", server.get_host(), "--port", &server.get_port().to_string()]);
    command.args(["--username", server.get_username(), "--dbname", server.get_database().unwrap()]);
    let done = command.args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    PgConnection::connect_with(options).await.unwrap()
}

/// A pipeline: what it has read, and its position.
#[derive(Default)]
struct Pipeline {
    position: i64,
    read: Vec<String>,
}

impl Pipeline {
    /// Reads one portion; answers whether there was anything.
    async fn read(&mut self, connection: &mut PgConnection, most: usize) -> bool {
        let next = format!(
            "SELECT change_id, new_value FROM reporting.incident_changes WHERE change_id > {}
             ORDER BY change_id LIMIT {most}",
            self.position
        );
        let portion: Vec<(i64, String)> =
            sqlx::query_as(AssertSqlSafe(next)).fetch_all(connection).await.unwrap();
        self.position = portion.last().map_or(self.position, |(position, _)| *position);
        let is_news = !portion.is_empty();
        self.read.extend(portion.into_iter().map(|(_, value)| value));
        is_news
    }

    /// Other databases of the server may hold the feed back for a moment.
    async fn reads_until(&mut self, connection: &mut PgConnection, count: usize) {
        let started = Instant::now();
        while self.read(connection, 7).await || self.read.len() < count {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{} of {count} changes",
                self.read.len()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn late_commit_holds_the_feed_but_no_writer() {
    let world = World::with(vec![spec(1, 0), spec(2, 0)]).await;
    let (mut first, mut second) = (connect(&world.database).await, connect(&world.database).await);
    let mut late = begin(&mut first, 1).await;
    change(&mut late, 1, "late").await;
    let mut early = begin(&mut second, 2).await;
    change(&mut early, 2, "early").await;
    early.commit().await.unwrap();

    let mut admin = connect(&world.database).await;
    let mut pipeline = Pipeline::default();
    assert!(!pipeline.read(&mut admin, 10).await, "what is below may still come");
    late.commit().await.unwrap();
    pipeline.reads_until(&mut admin, 2).await;
    assert_eq!(pipeline.read, ["late", "early"]);
}

#[tokio::test]
async fn feed_does_not_skip_a_transaction_begun_later() {
    let world = World::with(vec![spec(1, 0)]).await;
    let (mut first, mut second) = (connect(&world.database).await, connect(&world.database).await);
    let mut earlier = begin(&mut first, 1).await;
    sqlx::query("SELECT pg_current_xact_id()::text").execute(&mut *earlier).await.unwrap();
    let mut later = begin(&mut second, 1).await;
    change(&mut later, 1, "numbered first").await;
    change(&mut earlier, 1, "numbered second").await;
    earlier.commit().await.unwrap();
    let mut admin = connect(&world.database).await;
    let mut pipeline = Pipeline::default();
    pipeline.reads_until(&mut admin, 1).await;
    later.commit().await.unwrap();
    pipeline.reads_until(&mut admin, 2).await;
    assert_eq!(pipeline.read, ["numbered second", "numbered first"]);
}

/// Commits most of its transactions; holds each for a while; takes some of it back.
async fn write(options: PgConnectOptions, writer: u64) {
    let mut random = Rng::with_seed(writer);
    let mut connection = connect(&options).await;
    for number in 0..TRANSACTIONS {
        let tenant = if random.usize(..2) == 0 { 1 } else { 2 };
        let mut transaction = begin(&mut connection, tenant).await;
        for row in 0..random.usize(..4) {
            change(&mut transaction, tenant, &format!("{writer}/{number}/{row}")).await;
            tokio::time::sleep(Duration::from_micros(random.u64(..8_000))).await;
        }
        let mut part = transaction.begin().await.unwrap();
        change(&mut part, tenant, &format!("{writer}/{number}/part")).await;
        if random.usize(..3) == 0 {
            part.rollback().await.unwrap();
        } else {
            part.commit().await.unwrap();
        }
        change(&mut transaction, tenant, &format!("{writer}/{number}/last")).await;
        if random.usize(..5) == 0 {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_miss_and_double_nothing_while_many_write() {
    let world = World::with(vec![spec(1, 0), spec(2, 0)]).await;
    let scoped = reader(&world, "feed", &[2]).await;
    let written = CancellationToken::new();
    let follow = async |mut connection: PgConnection, mut random: Rng| {
        let mut pipeline = Pipeline::default();
        while !written.is_cancelled() {
            pipeline.read(&mut connection, 1 + random.usize(..9)).await;
        }
        (connection, pipeline)
    };
    let write_all = async {
        let writers =
            (0..WRITERS).map(|writer| tokio::spawn(write(world.database.clone(), writer)));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        written.cancel();
    };
    let all = connect(&world.database).await;
    let (_, all, some) = tokio::join!(
        write_all,
        follow(all, Rng::with_seed(98)),
        follow(scoped, Rng::with_seed(99))
    );
    let mut admin = connect(&world.database).await;
    for ((mut connection, mut pipeline), tenants) in [(all, "1, 2"), (some, "2")] {
        let tenants =
            tenants.split(", ").map(|number| format!("'{}'", id(number.parse().unwrap())));
        let committed = format!(
            "SELECT new_value FROM defender.incident_changes WHERE tenant_id IN ({}) ORDER BY new_value COLLATE \"C\"",
            tenants.collect::<Vec<_>>().join(", ")
        );
        let committed: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(committed)).fetch_all(&mut admin).await.unwrap();
        assert!(pipeline.read.len() > 20, "nothing was read while it was written");
        pipeline.reads_until(&mut connection, committed.len()).await;
        pipeline.read.sort();
        assert_eq!(pipeline.read, committed);
    }
}

/// With commits that reach the disk ten seconds later, a crash takes back transactions whose changes were read already.
#[tokio::test]
async fn changes_after_a_crash_follow_those_already_read() {
    let mut server = OwnServer::with(&["synchronous_commit=off", "wal_writer_delay=10s"]).await;
    let world = world_on(server.options(), &[0]).await;
    let mut connection = connect(&server.options()).await;
    let write = async |connection: &mut PgConnection, what: &str| {
        let mut transaction = begin(connection, 1).await;
        change(&mut transaction, 1, what).await;
        transaction.commit().await.unwrap();
    };
    let mut pipeline = Pipeline::default();
    let held = "SELECT count(*) FROM defender.incident_changes";
    // The server may take its log to the disk just then; a crash soon enough before that takes back what was written.
    for round in 0.. {
        let before = pipeline.read.len();
        for number in 0..50 {
            write(&mut connection, &format!("{round}/{number}")).await;
        }
        pipeline.reads_until(&mut connection, before + 50).await;
        let written: i64 = sqlx::query_scalar(held).fetch_one(&mut connection).await.unwrap();
        server.stop(Signal::SIGQUIT);
        server.start().await;
        connection = connect(&server.options()).await;
        let left: i64 = sqlx::query_scalar(held).fetch_one(&mut connection).await.unwrap();
        if left < written {
            break;
        }
        assert!(round < 10, "no crash took anything back");
    }
    let read = pipeline.read.len();
    write(&mut connection, "new").await;
    pipeline.reads_until(&mut connection, read + 1).await;
    assert_eq!(pipeline.read.last().unwrap(), "new");
    drop(world);
}

#[tokio::test]
async fn restored_dump_keeps_changes_and_continues_above() {
    let (old, new) = tokio::join!(OwnServer::with(&[]), OwnServer::with(&[]));
    let world = world_on(old.options(), &[0]).await;
    let mut connection = connect(&old.options()).await;
    let many = "DO $$ BEGIN FOR number IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
    sqlx::raw_sql(many).execute(&mut connection).await.unwrap();
    for number in 0..200 {
        let mut transaction = begin(&mut connection, 1).await;
        change(&mut transaction, 1, &number.to_string()).await;
        transaction.commit().await.unwrap();
    }
    let mut pipeline = Pipeline::default();
    pipeline.reads_until(&mut connection, 200).await;

    // Roles belong to the server and are in no dump.
    apply_migrations(&new.options()).await.unwrap();
    new.execute("CREATE DATABASE restored").await;
    let restored = new.options().database("restored");
    let dump = tool("pg_dump", &old.options(), &[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    tool("psql", &restored, &["-q", "-v", "ON_ERROR_STOP=1", "-f", file.path().to_str().unwrap()]);

    let mut connection = connect(&restored).await;
    assert!(
        !Pipeline::default().read(&mut connection, 1).await,
        "the new server has not come so far"
    );
    let store = Store::open(&restored, 2, "restored".to_owned(), false).await.unwrap();
    store.sync_tenants(world.tenants(), RemovedTenants::AllOthers).await.unwrap();
    Pipeline::default().reads_until(&mut connection, 200).await;
    let mut transaction = begin(&mut connection, 1).await;
    change(&mut transaction, 1, "after").await;
    transaction.commit().await.unwrap();
    pipeline.reads_until(&mut connection, 201).await;
    assert_eq!(pipeline.read.last().unwrap(), "after");
}

#[tokio::test]
async fn notify_is_sent_for_new_changes_if_configured() {
    let mut world = World::of(5).await;
    let mut listener = PgListener::connect_with(world.pool()).await.unwrap();
    listener.listen("incident_sync_changes").await.unwrap();
    world.successful_run().await;
    superuser(&world, "NOTIFY incident_sync_changes, 'of the test'").await;
    assert_eq!(
        listener.recv().await.unwrap().payload(),
        "of the test",
        "notifications are off by default"
    );

    world.notify();
    world.successful_run().await;
    superuser(&world, "NOTIFY incident_sync_changes, 'nothing was new'").await;
    assert_eq!(listener.recv().await.unwrap().payload(), "nothing was new");
    world.service().create(id(1));
    world.later();
    world.successful_run().await;
    assert_eq!(listener.recv().await.unwrap().payload(), "");
}

#[tokio::test]
async fn feed_shows_each_reader_its_own_tenants() {
    let world = World::with(vec![spec(1, 3), spec(2, 4)]).await;
    world.successful_run().await;
    let mut scoped = reader(&world, "feed", &[1]).await;
    Pipeline::default().reads_until(&mut scoped, 3).await;
    superuser(&world, "CREATE ROLE feed_all LOGIN IN ROLE incident_sync_reader").await;
    let mut all = log_in(&world.database, "feed_all").await;
    Pipeline::default().reads_until(&mut all, 7).await;
    let removed = "UPDATE defender.tenants SET removed_at = now() WHERE tenant_id = '{}'";
    superuser(&world, &removed.replace("{}", &id(1).to_string())).await;
    let left = rows(&mut scoped, "SELECT FROM reporting.incident_changes").await.unwrap();
    assert_eq!(left.len(), 3, "what a pipeline has not read yet stays for it");
}
