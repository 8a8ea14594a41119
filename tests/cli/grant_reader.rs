//! `grant-reader`.

use sqlx::PgPool;

use crate::support::installation::found;
use crate::support::installation::{Installation, id, spec};

#[tokio::test(flavor = "multi_thread")]
async fn grant_reader_creates_role_and_prints_next_steps() {
    let site = Installation::with(vec![spec(1, 3), spec(2, 4)]).await;
    site.run(&["sync"]).success();
    let two = id(2).to_string().to_uppercase();
    let output =
        site.run(&["grant-reader", "bi_both", "--tenant", "tenant-1", "--tenant", &two]).success();
    assert!(output.contains("tenant-1") && output.contains("tenant-2"), "{output}");
    let again = site.run(&["grant-reader", "bi_both", "--tenant", "tenant-1", "--json"]).json();
    let expected = serde_json::json!({ "role": "bi_both", "created": false, "all_tenants": false,
        "tenants": [{ "tenant_id": id(1), "name": "tenant-1" }] });
    assert_eq!(again, expected);
    let all = site.run(&["grant-reader", "bi_all", "--all-tenants", "--json"]).json();
    assert_eq!((&all["all_tenants"], &all["created"]), (&true.into(), &true.into()));

    for (arguments, word) in [
        (&["bi_both", "--tenant", "tenant-7"][..], "no tenant tenant-7"),
        (&["bi_both"], "--tenant"),
        (&["bi_both", "--all-tenants", "--tenant", "tenant-1"], "--all-tenants"),
        (&["Robert'); DROP ROLE x; --", "--all-tenants"], "lower-case letters"),
        (&["incident_sync_reader", "--all-tenants"], "reserved"),
        (&["current_user", "--all-tenants"], "reserved"),
        (&["select", "--all-tenants"], "a keyword of SQL"),
        (&["incident_sync", "--tenant", "tenant-1"], "a superuser"),
    ] {
        let done = site.run(&[&["grant-reader"], arguments].concat());
        assert!(
            done.code() == Some(2) && done.stderr.contains(word),
            "{arguments:?}: {}",
            done.stderr
        );
    }

    let (server, admin) = site.open_database().await;
    for (role, count) in [("bi_both", 3), ("bi_all", 7)] {
        let options = server.connect_options().username(role);
        let pool = PgPool::connect_with(options).await.unwrap();
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM defender.incidents")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(seen, count, "{role}");
        pool.close().await;
    }
    // An earlier customer of the same name is not meant by accident.
    let old = "INSERT INTO defender.tenants (tenant_id, name, enabled, removed_at) VALUES (gen_random_uuid(), 'tenant-1', false, now())";
    sqlx::query(old).execute(&admin).await.unwrap();
    admin.close().await;
    server.stop().await;
    let done = site.run(&["grant-reader", "bi_both", "--tenant", "tenant-1"]);
    assert!(done.code() == Some(2) && done.stderr.contains("several tenants"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn grant_reader_fails_while_others_may_create() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    site.run(&["sync"]).success();
    let (server, admin) = site.open_database().await;
    sqlx::raw_sql("GRANT CREATE ON SCHEMA public TO PUBLIC").execute(&admin).await.unwrap();
    admin.close().await;
    server.stop().await;
    let done = site.run(&["grant-reader", "bi", "--tenant", "tenant-1"]);
    let cure = "Let a superuser run: REVOKE CREATE ON SCHEMA public FROM PUBLIC";
    assert!(done.code() == Some(2) && done.stderr.contains(cure), "{}", done.stderr);
    let (server, admin) = site.open_database().await;
    let made: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_roles WHERE rolname = 'bi'")
        .fetch_one(&admin)
        .await
        .unwrap();
    assert_eq!(made, 0);
    sqlx::raw_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC").execute(&admin).await.unwrap();
    admin.close().await;
    server.stop().await;
    site.run(&["grant-reader", "bi", "--tenant", "tenant-1"]).success();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_readers_whose_grants_have_no_effect() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    site.run(&["sync"]).success();
    site.run(&["grant-reader", "bi", "--tenant", "tenant-1"]).success();
    let (server, admin) = site.open_database().await;
    sqlx::raw_sql("DROP OWNED BY bi; DROP ROLE bi; CREATE ROLE bi LOGIN")
        .execute(&admin)
        .await
        .unwrap();
    admin.close().await;
    server.stop().await;
    let report = site.run(&["check", "--json"]).json();
    let [row] = found(&report, "grants")[..] else { panic!("one row in {report:#}") };
    assert_eq!(row["result"], "warning", "{row:#}");
    assert!(
        row["advice"]
            .as_str()
            .unwrap()
            .contains("restored on another server: bi. Run incident-sync grant-reader"),
        "{row:#}"
    );
    site.run(&["grant-reader", "bi", "--tenant", "tenant-1"]).success();
    let report = site.run(&["check", "--json"]).json();
    assert_eq!(found(&report, "grants")[0]["result"], "ok", "{report:#}");
}
