//! After SIGKILL at any moment the current window is read again, and nothing else is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;
use sqlx::PgPool;

use crate::support::installation::{Installation, id, number, spec, stored, until};

const SIZES: [(u128, usize); 2] = [(1, 1_000), (2, 600)];

#[tokio::test(flavor = "multi_thread")]
async fn repeatedly_killed_backfill_ends_complete() {
    let site =
        Installation::with(SIZES.map(|(tenant, incidents)| spec(tenant, incidents)).to_vec()).await;
    for (tenant, _) in SIZES {
        site.slow_down(tenant, Duration::from_millis(40));
    }
    let mut before = [0; 2];
    let mut in_the_middle = 0;
    // After so many more pages, and so many milliseconds later: between request, answer, statement and commit.
    for (pages, pause) in [(1, 0), (5, 10), (8, 60), (9, 130), (10, 200), (12, 30)] {
        let asked = site.pages(1) + site.pages(2);
        let daemon = site.start_daemon();
        until("pages were read", async || site.pages(1) + site.pages(2) >= asked + pages).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        daemon.dies();
        until("the orphaned Postgres is gone", async || site.servers().is_empty()).await;

        let (embedded, pool) = site.open_database().await;
        let mut now = [0; 2];
        for (at, (tenant, _)) in SIZES.into_iter().enumerate() {
            now[at] = stored(&pool, tenant).await;
            assert_nothing_missing_below_the_watermark(&site, &pool, tenant).await;
        }
        assert!(
            now[0] >= before[0] && now[1] >= before[1],
            "what was stored stays: {before:?}, {now:?}"
        );
        in_the_middle += u32::from(now != [0, 0] && now != SIZES.map(|(_, incidents)| incidents));
        before = now;
        assert_nothing_twice(&pool).await;
        pool.close().await;
        embedded.stop().await;
    }
    assert!(in_the_middle >= 3, "the kills missed the backfill: {before:?}");

    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("both histories", async || {
        number(&pool, "SELECT count(*) FROM defender.sync_state WHERE backfilled_at IS NOT NULL")
            .await
            == 2
    })
    .await;
    for (tenant, incidents) in SIZES {
        assert_eq!(stored(&pool, tenant).await, incidents);
        site.assert_truth(&pool, tenant).await;
        assert_nothing_missing_below_the_watermark(&site, &pool, tenant).await;
    }
    assert_nothing_twice(&pool).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

/// Every incident that is older than its tenant's watermark is stored, in the version that is current.
async fn assert_nothing_missing_below_the_watermark(
    site: &Installation,
    pool: &PgPool,
    tenant: u128,
) {
    let watermark = sqlx::query_scalar::<_, Option<DateTime<Utc>>>(
        "SELECT max(watermark) FROM defender.sync_state WHERE tenant_id = $1",
    );
    let Some(watermark) = watermark.bind(id(tenant)).fetch_one(pool).await.unwrap() else { return };
    let rows = sqlx::query_scalar::<_, i64>(
        "SELECT incident_id FROM defender.incidents WHERE tenant_id = $1",
    );
    let rows: BTreeSet<i64> =
        rows.bind(id(tenant)).fetch_all(pool).await.unwrap().into_iter().collect();
    for incident in site.world().truth(id(tenant)) {
        let updated: DateTime<Utc> = incident["lastUpdateTime"].as_str().unwrap().parse().unwrap();
        let incident = incident["incidentId"].as_i64().unwrap();
        assert!(
            updated >= watermark || rows.contains(&incident),
            "{incident} ({updated}) is missing below {watermark}"
        );
    }
}

/// Keys forbid it for the rest; the list of changes has none.
async fn assert_nothing_twice(pool: &PgPool) {
    let query = "SELECT count(*) - count(DISTINCT (tenant_id, incident_id, field)) FROM defender.incident_changes";
    assert_eq!(number(pool, query).await, 0, "the same change was recorded twice");
    let query = "SELECT count(*) FROM defender.incidents i
        FULL JOIN (SELECT * FROM defender.incident_changes WHERE field = 'created') c USING (tenant_id, incident_id)
        WHERE i.tenant_id IS NULL OR c.tenant_id IS NULL";
    assert_eq!(number(pool, query).await, 0, "a page was stored by halves");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_first_start_leaves_a_usable_database() {
    let site = Installation::with(vec![spec(1, 12)]).await;
    for milliseconds in (40..=1_000).step_by(80) {
        let daemon = site.start_daemon();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        daemon.dies();
    }
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    let pool = site.connect().await;
    until("the rows", async || stored(&pool, 1).await == 12).await;
    site.assert_truth(&pool, 1).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
    assert_eq!(site.servers(), [0; 0]);
}
