//! `tenant export` and `import`: a tenant's data is restored exactly or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::golden::assert_golden;
use crate::support::installation::{Installation, Settings, id, number, spec};
use crate::support::redact::{messages, replace};

const TABLES: [&str; 13] = [
    "alert_devices",
    "alerts",
    "devices",
    "evidence",
    "incident_changes",
    "incident_comments",
    "incident_payloads",
    "incidents",
    "rejected_payloads",
    "sync_gaps",
    "sync_runs",
    "sync_state",
    "tenants",
];

/// What a restored tenant has like a new one: lease, fence, due times and quotas. The watermark is none of it.
const NEW: &str = "{lease_owner,lease_fence,lease_expires_at,next_attempt_at,poll_due_at,open_due_at,reconcile_due_at,\
    minute_quota_at,hour_quota_at,no_calls_before}";

/// Every row of the tenant, without the numbers that the database draws and what is new of a restored tenant.
async fn rows(pool: &PgPool, tenant: u128) -> BTreeMap<&'static str, Vec<Value>> {
    let mut all = BTreeMap::new();
    for table in TABLES {
        let query = format!(
            "SELECT to_jsonb(t) - ARRAY['change_id', 'row_version', 'rejected_id', 'run_id'] - '{NEW}'::text[] AS row FROM defender.{table} t
             WHERE tenant_id = '{}' ORDER BY 1",
            id(tenant)
        );
        all.insert(table, sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(pool).await.unwrap());
    }
    all
}

/// What an analyst sees of it.
async fn answers(pool: &PgPool) -> Vec<String> {
    let mut answers = Vec::new();
    for question in [
        "SELECT md5(string_agg(x::text, '' ORDER BY x::text)) FROM (
            SELECT incident_id, status, is_open, acknowledged_at, resolved_at, reopened_count, alert_count, device_count,
                user_count FROM reporting.incidents) x",
        "SELECT md5(string_agg(x::text, '' ORDER BY x::text)) FROM reporting.incident_trend_daily x",
        "SELECT md5(string_agg(x::text, '' ORDER BY x::text)) FROM reporting.users_at_risk x",
        // An export has a row in one line.
        "SELECT md5(string_agg(replace(payload::text, E'\n', ' '), '' ORDER BY tenant_id, incident_id))
            FROM defender.incident_payloads",
    ] {
        answers.push(sqlx::query_scalar(question).fetch_one(pool).await.unwrap());
    }
    answers
}

/// With two tenants, the first of which has rows in every table.
async fn site() -> Installation {
    let site = Installation::with(vec![spec(1, 60), spec(2, 20)]).await;
    site.run(&["sync"]).success();
    let (embedded, pool) = site.open_database().await;
    let rest = format!(
        "INSERT INTO defender.sync_gaps (tenant_id, window_from, window_to, error_class, error_message)
         VALUES ('{0}', now(), now(), 'upstream', 'of its own');
         INSERT INTO defender.rejected_payloads (tenant_id, reason, payload, content_hash)
         VALUES ('{0}', E'two\\nlines', '{{\"a\":1}}', '\\x00ff'), ('{0}', 'r', repeat('x', 9000000), '\\x01');
         INSERT INTO defender.incident_comments (tenant_id, incident_id, comment_hash, comment)
         VALUES ('{0}', 1, '\\x02', E'a \"quoted\" \\\\ comment');
         UPDATE defender.incident_payloads SET payload = (E'{{ \"n\": 1.50,\n' || substr(payload::text, 2))::json
         WHERE tenant_id = '{0}' AND incident_id = 2",
        id(1)
    );
    sqlx::raw_sql(AssertSqlSafe(rest)).execute(&pool).await.unwrap();
    pool.close().await;
    embedded.stop().await;
    site
}

/// Takes the tenant out of the configuration and of the database.
fn purge(site: &Installation) {
    site.configure(&Settings { tenants: vec![2], ..site.settings() });
    site.run(&["sync"]).success();
    site.run(&["tenant", "purge", "tenant-1", "--yes"]).success();
}

fn export(site: &Installation, name: &str) -> std::path::PathBuf {
    let folder = site.path(name);
    site.run(&["tenant", "export", "tenant-1", "--to", folder.to_str().unwrap()]).success();
    folder
}

/// What `tenant import` says when it refuses.
fn refusal(site: &Installation, folder: &Path) -> String {
    let refused = site.run(&["tenant", "import", folder.to_str().unwrap()]);
    assert!(refused.code().is_some_and(|code| code > 1), "{}", refused.stdout);
    refused.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn import_restores_exported_rows_after_purge() {
    let site = site().await;
    let (embedded, pool) = site.open_database().await;
    let before = rows(&pool, 1).await;
    assert!(before.values().all(|rows| !rows.is_empty()), "every table is tried");
    let position = number(&pool, "SELECT max(change_id) FROM defender.incident_changes").await;
    // What the other tenant has would show in the views.
    sqlx::query("UPDATE defender.tenants SET removed_at = now() WHERE name = 'tenant-2'")
        .execute(&pool)
        .await
        .unwrap();
    let seen = answers(&pool).await;
    pool.close().await;
    embedded.stop().await;

    let folder = export(&site, "export");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
        assert!(
            !fs::read_to_string(&path).unwrap().contains(&id(2).to_string()),
            "{}",
            path.display()
        );
    }
    let again = site.run(&["tenant", "export", "tenant-1", "--to", folder.to_str().unwrap()]);
    assert_eq!(again.code(), Some(2), "{}", again.stderr);
    let refusals = format!("{}{}", again.stderr, refusal(&site, &folder));
    assert_golden("text", "tenant_transfer_refused", &messages(&refusals, site.folder.path()));

    purge(&site);
    let restored = site.run(&["tenant", "import", folder.to_str().unwrap(), "--json"]);
    assert_eq!(restored.json()["rows"]["incidents"], 60, "{}", restored.stderr);
    let (embedded, pool) = site.open_database().await;
    let after = rows(&pool, 1).await;
    for table in TABLES {
        assert_eq!(after[table], before[table], "{table}");
    }
    let removed = "UPDATE defender.tenants SET removed_at = now() WHERE name = 'tenant-2'";
    sqlx::query(removed).execute(&pool).await.unwrap();
    assert_eq!(answers(&pool).await, seen);
    let news = format!(
        "SELECT count(*) FILTER (WHERE change_id <= {position}) FROM defender.incident_changes WHERE tenant_id = '{}'",
        id(1)
    );
    let old: i64 = sqlx::query_scalar(AssertSqlSafe(news)).fetch_one(&pool).await.unwrap();
    assert_eq!(old, 0, "a pipeline sees what was restored as new");
    let audit = "SELECT count(*) FROM defender.audit WHERE action = 'restored' AND row_counts ->> 'incidents' = '60'";
    assert_eq!(number(&pool, audit).await, 1);
    pool.close().await;
    embedded.stop().await;

    site.configure(&Settings { tenants: vec![1, 2], ..site.settings() });
    let next = site.run(&["sync", "--tenant", "tenant-1", "--json"]).json();
    assert_eq!(next["tenants"][0]["incidents_written"], 0, "it continues where it was: {next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_export_restores_nothing() {
    let site = site().await;
    let exported = export(&site, "export");
    purge(&site);
    let copy = |name: &str| {
        let folder = site.path(name);
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(&exported).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        folder
    };
    let edit_manifest = |folder: &Path, edit: &dyn Fn(&mut Value)| {
        let path = folder.join("manifest.json");
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut manifest);
        fs::write(path, manifest.to_string()).unwrap();
    };

    let folder = copy("interrupted");
    fs::remove_file(folder.join("manifest.json")).unwrap();
    let mut refusals = refusal(&site, &folder);

    let folder = copy("cut");
    let alerts = fs::read(folder.join("alerts.jsonl")).unwrap();
    fs::write(folder.join("alerts.jsonl"), &alerts[..alerts.len() - 1]).unwrap();
    refusals += &refusal(&site, &folder);

    let folder = copy("missing");
    fs::remove_file(folder.join("devices.jsonl")).unwrap();
    refusals += &refusal(&site, &folder);

    let folder = copy("newer");
    edit_manifest(&folder, &|manifest| manifest["schema"] = 9_999.into());
    refusals += &refusal(&site, &folder);

    let folder = copy("column");
    edit_manifest(&folder, &|manifest| {
        manifest["tables"]["alerts"]["columns"][0] = "title) --".into();
    });
    refusals += &refusal(&site, &folder);

    // By a hand that made the checksum fit.
    let folder = copy("foreign");
    let file = folder.join("tenants.jsonl");
    let foreign =
        fs::read_to_string(&file).unwrap().replace(&id(1).to_string(), &id(7).to_string());
    fs::write(&file, &foreign).unwrap();
    let sum: String = Sha256::digest(&foreign).iter().map(|byte| format!("{byte:02x}")).collect();
    edit_manifest(&folder, &|manifest| {
        manifest["tables"]["tenants"]["sha256"] = sum.clone().into();
    });
    refusals += &refusal(&site, &folder);
    let refusals =
        replace(&messages(&refusals, site.folder.path()), r"database with \d+", "database with n");
    assert_golden("text", "tenant_import_refused", &refusals);

    let (embedded, pool) = site.open_database().await;
    assert!(
        rows(&pool, 1).await.values().all(Vec::is_empty)
            && rows(&pool, 7).await.values().all(Vec::is_empty)
    );
    pool.close().await;
    embedded.stop().await;
}
