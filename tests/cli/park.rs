//! `tenant park` and `resume` beside a running daemon.

use nix::sys::signal::Signal;
use serde_json::json;
use simulator::{Behaviour, TenantSpec};

use crate::support::installation::{Installation, id, number, spec, stored, until};

#[tokio::test(flavor = "multi_thread")]
async fn parked_tenant_is_not_read_until_resumed() {
    let site = Installation::with(vec![spec(1, 30), spec(2, 20)]).await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("both tenants", async || stored(&pool, 1).await == 30 && stored(&pool, 2).await == 20)
        .await;

    let parked =
        site.run(&["tenant", "park", "tenant-1", "--reason", "their admin asks for it", "--json"]);
    assert_eq!(parked.json(), json!({ "tenant_id": id(1), "name": "tenant-1", "parked": true }));
    // A call that was under way has ended meanwhile.
    let pages = site.pages(2);
    until("more polls of the other tenant", async || site.pages(2) > pages + 1).await;
    let calls = site.world().calls(id(1)).len();

    daemon.signal(Signal::SIGHUP);
    site.world().create(id(1));
    site.world().create(id(2));
    until("the other tenant is still read", async || stored(&pool, 2).await == 21).await;
    let asked = site.run(&["sync", "--tenant", "tenant-1", "--json"]);
    assert_eq!((asked.code(), &asked.json()["left_out"]), (Some(1), &json!(["tenant-1"])));
    assert_eq!(
        site.world().calls(id(1)).len(),
        calls,
        "neither a reload nor a command asks for it"
    );
    let status = site.run(&["status", "--json"]);
    assert_eq!(status.code(), Some(1));
    let tenant = &status.tenants()[0];
    assert_eq!(
        (&tenant["error_class"], &tenant["who_must_act"]),
        (&json!("parked"), &json!("operator"))
    );
    let message = tenant["error_message"].as_str().unwrap();
    assert!(message.contains("their admin asks for it"), "{message}");
    assert_eq!(tenant["state"], "parked");

    site.run(&["tenant", "resume", "tenant-1"]).success();
    until("what came meanwhile", async || stored(&pool, 1).await == 31).await;
    site.assert_truth(&pool, 1).await;
    until("a status without a complaint", async || site.run(&["status"]).code() == Some(0)).await;
    site.run(&["tenant", "resume", &id(1).to_string()]).success();
    assert_eq!(
        number(&pool, "SELECT count(*) FROM defender.audit WHERE action IN ('parked', 'resumed')")
            .await,
        2
    );
    assert_eq!(site.run(&["tenant", "park", "nobody"]).code(), Some(2));
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

/// It is what the documents say to run after each upgrade, and calls no API.
#[tokio::test(flavor = "multi_thread")]
async fn retry_rejected_keeps_a_parked_state() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let site = Installation::with(vec![
        TenantSpec { behaviour: without_consent, ..spec(1, 5) },
        spec(2, 5),
    ])
    .await;
    assert_eq!(site.run(&["sync"]).code(), Some(1));
    let state = || {
        let tenants = site.run(&["status", "--json"]).tenants();
        let keys =
            ["state", "error_class", "who_must_act", "consecutive_failures", "error_message"];
        tenants
            .as_array()
            .unwrap()
            .iter()
            .map(|tenant| keys.map(|key| tenant[key].clone()))
            .collect::<Vec<_>>()
    };
    let next = "SELECT max(extract(epoch FROM next_attempt_at))::bigint FROM defender.sync_state";
    let due = async || {
        let (embedded, pool) = site.open_database().await;
        let due = number(&pool, next).await;
        pool.close().await;
        embedded.stop().await;
        due
    };
    let (before, due_before) = (state(), due().await);
    assert_eq!(before[0][0], "parked");
    site.run(&["retry-rejected"]).success();
    assert_eq!(state(), before);
    assert_eq!(due().await, due_before, "it is not tried earlier");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_resumed_during_a_pause_is_throttled() {
    let site = Installation::with(vec![spec(1, 5)]).await;
    site.run(&["sync"]).success();
    site.run(&["tenant", "park", "tenant-1"]).success();
    let (embedded, pool) = site.open_database().await;
    let pause = "UPDATE defender.sync_state SET no_calls_before = now() + interval '1 hour', poll_due_at = now() - interval '1 hour'";
    sqlx::query(pause).execute(&pool).await.unwrap();
    pool.close().await;
    embedded.stop().await;
    site.run(&["tenant", "resume", "tenant-1"]).success();
    let tenant = site.run(&["status", "--json"]).tenants()[0].clone();
    assert_eq!(
        (&tenant["state"], &tenant["error_class"]),
        (&json!("failing"), &json!("throttled"))
    );
    assert_eq!(tenant["who_must_act"], "nobody");
}
