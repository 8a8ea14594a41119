//! A schema that is changed under the running daemon, whose connections hold prepared statements.

use nix::sys::signal::Signal;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::installation::{Installation, events, number, spec, until};

async fn change(pool: &PgPool, statement: &str) {
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(pool).await.unwrap();
}

async fn good_runs(pool: &PgPool) -> i64 {
    number(pool, "SELECT count(*) FROM defender.sync_runs WHERE outcome = 'ok'").await
}

async fn failed_runs(pool: &PgPool) -> i64 {
    number(pool, "SELECT count(*) FROM defender.sync_runs WHERE outcome = 'failed'").await
}

/// Postgres answers "cached plan must not change result type" (0A000) to statements that were prepared before.
#[tokio::test(flavor = "multi_thread")]
async fn column_of_other_type_fails_no_run() {
    let site = Installation::with((1..=4).map(|number| spec(number, 5)).collect()).await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("runs on several connections", async || good_runs(&pool).await >= 12).await;
    for of_type in ["timestamptz(6)", "timestamptz"] {
        let before = good_runs(&pool).await;
        let column =
            format!("ALTER TABLE defender.sync_gaps ALTER COLUMN window_from TYPE {of_type}");
        change(&pool, &column).await;
        until("more runs", async || good_runs(&pool).await >= before + 12).await;
    }
    assert_eq!(failed_runs(&pool).await, 0);
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_that_cannot_run_is_named_and_backs_off() {
    let site = Installation::with(vec![spec(1, 5)]).await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("a run", async || good_runs(&pool).await >= 2).await;
    change(&pool, "ALTER TABLE defender.sync_gaps RENAME COLUMN error_message TO renamed").await;
    until("a failed run", async || failed_runs(&pool).await >= 1).await;
    let state = "SELECT count(*) FROM defender.sync_state WHERE error_class = 'database_statement'
        AND who_must_act = 'developers' AND next_attempt_at > now() + interval '30 s'
        AND error_message LIKE '%SQLSTATE 42703%column%error_message%does not exist%'";
    assert_eq!(number(&pool, state).await, 1);
    let failed: Vec<Value> = events(&daemon.stderr())
        .into_iter()
        .filter(|event| event["class"] == "database_statement")
        .collect();
    let [event] = failed.as_slice() else { panic!("{failed:#?}") };
    assert_eq!(event["owner"], "developers");
    assert!(event["error"].as_str().unwrap().contains("does not exist"), "{event}");

    change(&pool, "ALTER TABLE defender.sync_gaps RENAME COLUMN renamed TO error_message").await;
    let before = good_runs(&pool).await;
    daemon.signal(Signal::SIGHUP);
    change(&pool, "UPDATE defender.sync_state SET next_attempt_at = now()").await;
    until("a run", async || good_runs(&pool).await > before).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
