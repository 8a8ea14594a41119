//! `tenant erase-person`: no column of any table names the person afterwards, and other people stay.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::installation::{Installation, id, number, spec};

/// Whom the first tenant's evidence names most fully, and all that it calls them.
struct Victim {
    upn: String,
    names: Vec<String>,
}

async fn texts(pool: &PgPool, query: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(pool).await.unwrap()
}

async fn victim(pool: &PgPool) -> Victim {
    let first = id(1);
    let upn = format!(
        "SELECT user_principal_name FROM defender.evidence WHERE tenant_id = '{first}' AND user_sid IS NOT NULL
         GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"
    );
    let upn = texts(pool, &upn).await.remove(0);
    let names = format!(
        "SELECT DISTINCT name FROM defender.evidence, LATERAL (VALUES (user_principal_name), (user_sid), (aad_user_id),
            (domain_name || '\\' || account_name)) n (name)
         WHERE tenant_id = '{first}' AND user_principal_name = '{upn}' AND name IS NOT NULL"
    );
    let names = texts(pool, &names).await;
    assert!(names.len() >= 4, "{names:?}");
    Victim { upn, names }
}

/// Tables and views that hold the name of anybody called so, for one tenant.
async fn places(pool: &PgPool, tenant: u128, names: &[String]) -> Vec<String> {
    let relations = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE n.nspname IN ('defender', 'reporting') AND c.relkind IN ('r', 'v') ORDER BY 1";
    let mut found = Vec::new();
    for relation in texts(pool, relations).await {
        // Whole rows as text, their JSON with and without its escapes; not who is called alike.
        let query = format!(
            "SELECT count(*) FROM {relation} r, unnest($1::text[]) wanted,
                lower(replace(r::text, 'x' || wanted, '')) line
             WHERE tenant_id = $2
                 AND (strpos(line, lower(wanted)) > 0 OR strpos(replace(line, '\\\\', '\\'), lower(wanted)) > 0)"
        );
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(query))
            .bind(names)
            .bind(id(tenant))
            .fetch_one(pool)
            .await
            .unwrap();
        if count > 0 {
            found.push(relation);
        }
    }
    found
}

/// How many rows and users each view counts.
async fn counts(pool: &PgPool) -> Vec<i64> {
    let mut counts = Vec::new();
    for query in [
        "SELECT count(*) FROM reporting.users_at_risk",
        "SELECT sum(user_count)::bigint FROM reporting.incidents",
        "SELECT count(*) FROM reporting.evidence",
        "SELECT count(*) FROM defender.incident_payloads",
    ] {
        counts.push(number(pool, query).await);
    }
    counts
}

/// The person also writes comments, works on an incident, and is set aside; others are called alike.
fn more_of(upn: &str) -> String {
    let (first, second) = (id(1), id(2));
    format!(
        "INSERT INTO defender.incident_comments (tenant_id, incident_id, comment_hash, comment, created_by)
         VALUES ('{first}', 1, '\\x01', 'ask {upn}', '{upn}');
         UPDATE defender.incidents SET assigned_to = upper('{upn}') WHERE tenant_id = '{first}' AND incident_id = 2;
         INSERT INTO defender.incident_changes (tenant_id, incident_id, field, old_value, new_value)
         VALUES ('{first}', 2, 'assigned_to', NULL, '{upn}');
         INSERT INTO defender.rejected_payloads (tenant_id, reason, payload, content_hash) VALUES
            ('{first}', 'r', '{{\"to\":\"' || replace('{upn}', '@', '\\u0040') || '\"}}', '\\x01'),
            ('{first}', 'r', 'no JSON of {upn}', '\\x02');
         UPDATE defender.incident_payloads
         SET payload = ('{{\"seen\":{{\"by\":\"' || replace('{upn}', '@', '\\u0040') || '\",\"by\":1}},\"status\":\"{upn}\",' || substr(payload::text, 2))::json
         WHERE tenant_id = '{first}' AND incident_id = 3;
         UPDATE defender.incidents SET extra = '{{\"owner\":\"{upn}\"}}' WHERE tenant_id = '{first}' AND incident_id = 4;
         UPDATE defender.alerts SET extra = '{{\"loggedOnUsers\":[{{\"upn\":\"{upn}\"}}]}}' WHERE tenant_id = '{first}' AND incident_id = 4;
         UPDATE defender.evidence SET user_principal_name = '{upn}' WHERE tenant_id = '{second}';
         UPDATE defender.evidence SET sender = 'x{upn}' WHERE tenant_id = '{first}' AND sender IS NOT NULL"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_person_is_gone_and_poll_restores_nothing() {
    let site = Installation::with(vec![spec(1, 60), spec(2, 20)]).await;
    site.run(&["sync"]).success();
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    let pool = site.connect().await;
    let Victim { upn, names } = victim(&pool).await;
    sqlx::raw_sql(AssertSqlSafe(more_of(&upn))).execute(&pool).await.unwrap();
    let before = counts(&pool).await;
    let everywhere = places(&pool, 1, &names).await;
    for table in [
        "alerts",
        "evidence",
        "incident_payloads",
        "incident_comments",
        "incidents",
        "incident_changes",
        "rejected_payloads",
    ] {
        assert!(
            everywhere.contains(&format!("defender.{table}")),
            "{table} is tried: {everywhere:?}"
        );
    }

    let erase = |more: &[&str]| {
        let arguments =
            [&["tenant", "erase-person", "tenant-1", "--json", "--upn", &upn], more].concat();
        site.run(&arguments).json()["changed"].clone()
    };
    let would_change = erase(&["--dry-run"]);
    assert_eq!(places(&pool, 1, &names).await, everywhere);
    let changed = erase(&[]);
    assert_eq!(changed, would_change);
    assert!(
        changed["incident_payloads"].as_u64() > Some(0) && changed["rejected_payloads"] == 2,
        "{changed}"
    );

    assert_eq!(places(&pool, 1, &names).await, [""; 0]);
    let others = format!(
        "SELECT (count(*) > 0 AND bool_and(user_principal_name = '{upn}'))::text FROM defender.evidence WHERE tenant_id = '{}'",
        id(2)
    );
    assert_eq!(texts(&pool, &others).await, ["true"], "another customer's people stay");
    let alike = format!(
        "SELECT DISTINCT sender FROM defender.evidence WHERE tenant_id = '{}' AND sender LIKE 'x%'",
        id(1)
    );
    assert_eq!(texts(&pool, &alike).await, [format!("x{upn}")]);
    assert_eq!(counts(&pool).await, before);
    let audit = "SELECT count(*) FROM defender.audit WHERE action = 'person erased' AND row_counts ? 'evidence'";
    assert_eq!(number(&pool, audit).await, 1);
    assert_eq!(erase(&[]), json!({}), "nothing is left to erase");

    let run = site.run(&["sync", "--tenant", "tenant-1", "--full", "--json"]).json();
    assert_eq!(
        (&run["tenants"][0]["outcome"], &run["tenants"][0]["incidents_written"]),
        (&json!("ok"), &json!(0)),
        "{run}"
    );
    assert_eq!(places(&pool, 1, &names).await, [""; 0]);
    pool.close().await;
    let ended = daemon.ends_on(Signal::SIGTERM);
    assert!(ended.code() == Some(0) && !ended.stderr.contains(&upn));
}

#[tokio::test(flavor = "multi_thread")]
async fn erase_refuses_non_upn_and_accepts_unknown_upn() {
    let site = Installation::with(vec![spec(1, 5)]).await;
    site.run(&["sync"]).success();
    let refused = site.run(&["tenant", "erase-person", "tenant-1", "--upn", "administrator"]);
    assert!(
        refused.code() == Some(2) && refused.stderr.contains("ann@example.com"),
        "{}",
        refused.stderr
    );
    let unknown = site.run(&[
        "tenant",
        "erase-person",
        "tenant-1",
        "--upn",
        "nobody@nowhere.example",
        "--json",
    ]);
    assert_eq!(unknown.json()["changed"], Value::Object(serde_json::Map::new()));
}
