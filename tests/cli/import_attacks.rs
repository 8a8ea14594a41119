//! `tenant import` of folders that an attacker wrote: the checksums are in the folder's own manifest. An import affects no
//! other tenant, opens no other file and sends no control characters to the terminal. An export is readable by its owner only.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::installation::{Done, Installation, Settings, id, number, spec};

/// One value of `sync_state.jsonl`, and what is then in the database of it.
const FORGED: [(&str, &str); 14] = [
    ("watermark", "\"infinity\""),
    ("watermark", "\"-infinity\""),
    ("watermark", "\"9999-01-01T00:00:00+00:00\""),
    ("backfilled_at", "\"infinity\""),
    ("last_success_at", "\"infinity\""),
    ("last_attempt_at", "\"9999-01-01T00:00:00+00:00\""),
    ("lease_fence", "9223372036854775807"),
    ("lease_expires_at", "\"infinity\""),
    ("next_attempt_at", "\"infinity\""),
    ("poll_due_at", "\"9999-01-01T00:00:00+00:00\""),
    ("consecutive_failures", "2147483647"),
    ("no_calls_before", "\"infinity\""),
    ("hour_quota_at", "\"9999-01-01T00:00:00+00:00\""),
    ("found_late", "-9223372036854775808"),
];

/// Of the restored tenant, with any content of the folder.
const BOUNDED: &str =
    "SELECT count(*) FROM defender.sync_state WHERE tenant_id = 'aaaa0000-0000-4000-8000-000000000001'
    AND coalesce(watermark <= now(), true) AND coalesce(backfilled_at <= now(), true)
    AND coalesce(last_success_at <= now(), true) AND coalesce(last_attempt_at <= now(), true)
    AND lease_owner IS NULL AND lease_expires_at IS NULL AND lease_fence = 0 AND consecutive_failures = 0
    AND greatest(next_attempt_at, poll_due_at, open_due_at, reconcile_due_at) <= now()
    AND no_calls_before <= now() + interval '6 hours' AND minute_quota_at <= now() + interval '1 minute'
    AND hour_quota_at <= now() + interval '1 hour' AND found_late >= 0";

struct Exported {
    site: Installation,
    folder: PathBuf,
}

impl Exported {
    /// Tenant 1 was exported and purged; tenant 2 is there.
    async fn new() -> Self {
        let site = Installation::with(vec![spec(1, 20), spec(2, 10)]).await;
        site.run(&["sync"]).success();
        let folder = site.path("export");
        site.run(&["tenant", "export", "tenant-1", "--to", folder.to_str().unwrap()]).success();
        let exported = Self { site, folder };
        exported.configure(&[2]);
        exported.site.run(&["sync"]).success();
        exported.purge();
        exported
    }

    fn configure(&self, tenants: &[u128]) {
        // A pause may still be kept.
        self.site.configure(&Settings { tenants: tenants.to_vec(), ..self.site.settings() });
    }

    fn purge(&self) {
        self.site.run(&["tenant", "purge", "tenant-1", "--yes"]).success();
    }

    fn copy(&self, name: &str) -> PathBuf {
        let folder = self.site.path(name);
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        folder
    }

    fn import(&self, folder: &Path) -> Done {
        self.site.run(&["tenant", "import", folder.to_str().unwrap()])
    }

    /// The error for a folder of which nothing is restored.
    fn refusal(&self, folder: &Path) -> String {
        let refused = self.import(folder);
        assert_eq!(refused.code(), Some(2), "{}{}", refused.stdout, refused.stderr);
        refused.stderr
    }

    async fn pool(&self) -> (incident_sync::postgres::Embedded, PgPool) {
        self.site.open_database().await
    }
}

fn edit_manifest(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

/// Changes the first row of a table, and the checksum with it.
fn forge(folder: &Path, table: &str, edit: impl FnOnce(&mut Value)) {
    let path = folder.join(format!("{table}.jsonl"));
    let text = fs::read_to_string(&path).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let mut row: Value = serde_json::from_str(first).unwrap();
    edit(&mut row);
    write(folder, table, &format!("{row}\n{rest}"));
}

fn write(folder: &Path, table: &str, text: &str) {
    fs::write(folder.join(format!("{table}.jsonl")), text).unwrap();
    let sum: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    edit_manifest(folder, |manifest| manifest["tables"][table]["sha256"] = sum.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_state_is_bounded_and_affects_one_tenant() {
    let exported = Exported::new().await;
    for (at, (column, value)) in FORGED.into_iter().enumerate() {
        let folder = exported.copy(&format!("forged-{at}"));
        forge(&folder, "sync_state", |row| {
            row["lease_owner"] = "nobody".into();
            row[column] = serde_json::from_str(value).unwrap();
        });
        let restored = exported.import(&folder);
        assert_eq!(restored.code(), Some(0), "{column} = {value}: {}", restored.stderr);
        let (embedded, pool) = exported.pool().await;
        assert_eq!(number(&pool, BOUNDED).await, 1, "{column} = {value}");
        pool.close().await;
        embedded.stop().await;

        exported.configure(&[1, 2]);
        exported.site.world().create(id(1));
        exported.site.world().create(id(2));
        // What the quota leaves of an hour is waited for, and a pause is obeyed.
        let (is_slow, is_paused) = (column == "hour_quota_at", column == "no_calls_before");
        let named: &[&str] = if is_slow { &["--tenant", "tenant-2"] } else { &[] };
        let synced = exported.site.run(&[&["sync", "--json"], named].concat());
        let results = synced.json();
        for result in results["tenants"].as_array().unwrap() {
            assert_eq!(result["outcome"], "ok", "{column} = {value}: {results}");
            assert!(
                result["incidents_written"].as_i64().unwrap() > 0,
                "{column} = {value}: {results}"
            );
        }
        let ran = results["tenants"].as_array().unwrap().len();
        assert_eq!(
            ran,
            if is_paused || is_slow { 1 } else { 2 },
            "{column} = {value}: {}",
            synced.stderr
        );
        let status = exported.site.run(&["status", "--json"]).tenants();
        assert_eq!(status.as_array().unwrap().len(), 2, "{column} = {value}");
        exported.configure(&[2]);
        exported.site.run(&["sync"]).success();
        exported.purge();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn import_drops_a_watermark_beyond_the_export() {
    let exported = Exported::new().await;
    let folder = exported.copy("absurd");
    forge(&folder, "sync_state", |row| row["watermark"] = "9999-01-01T00:00:00+00:00".into());
    edit_manifest(&folder, |manifest| manifest["taken_at"] = "9998-01-01T00:00:00Z".into());
    assert_eq!(exported.import(&folder).code(), Some(0));
    let (embedded, pool) = exported.pool().await;
    let begins = "SELECT count(*) FROM defender.sync_state WHERE watermark IS NULL AND backfilled_at IS NULL";
    assert_eq!(number(&pool, begins).await, 1);
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn import_keeps_tenant_parked_and_cleans_its_texts() {
    let exported = Exported::new().await;
    let folder = exported.copy("parked");
    forge(&folder, "sync_state", |row| {
        row["parked_by"] = "\u{1b}]0;ann\u{7}@host".into();
        row["parked_reason"] = "parked by ann@host: \u{1b}[2Jmoved\u{202e}".into();
        row["error_message"] = "\u{1b}[31mred".into();
    });
    forge(&folder, "tenants", |row| row["name"] = "tenant\u{1b}[2J-1".into());
    edit_manifest(&folder, |manifest| manifest["name"] = "tenant\u{1b}[2J-1".into());
    let restored = exported.import(&folder);
    assert_eq!(restored.code(), Some(0), "{}", restored.stderr);
    let status = exported.site.run(&["status"]);
    for text in [&restored.stdout, &restored.stderr, &status.stdout] {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
    }
    let status = exported.site.run(&["status", "--json"]).tenants();
    let restored = status
        .as_array()
        .unwrap()
        .iter()
        .find(|tenant| tenant["tenant_id"] == id(1).to_string())
        .unwrap();
    assert_eq!(restored["name"], "tenant[2J-1");
    assert_eq!(restored["error_message"], "parked by ann@host: [2Jmoved");
    exported.configure(&[1, 2]);
    let synced = exported.site.run(&["sync", "--json"]);
    assert_eq!(synced.json()["left_out"], json!(["tenant-1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_with_other_files_or_names_restores_nothing() {
    let exported = Exported::new().await;
    let mut attacks = Vec::new();
    let secret = exported.site.path("secret.jsonl");
    fs::write(&secret, "{\"tenant_id\": \"of somebody else\"}\n").unwrap();

    let folder = exported.copy("link");
    fs::remove_file(folder.join("alerts.jsonl")).unwrap();
    symlink(exported.folder.join("alerts.jsonl"), folder.join("alerts.jsonl")).unwrap();
    attacks.push((folder, "alerts.jsonl: it is not a regular file"));

    let folder = exported.copy("device");
    fs::remove_file(folder.join("alerts.jsonl")).unwrap();
    symlink("/dev/zero", folder.join("alerts.jsonl")).unwrap();
    attacks.push((folder, "alerts.jsonl: it is not a regular file"));

    let folder = exported.copy("pipe");
    fs::remove_file(folder.join("alerts.jsonl")).unwrap();
    nix::unistd::mkfifo(&folder.join("alerts.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    attacks.push((folder, "alerts.jsonl: it is not a regular file"));

    let folder = exported.copy("manifest-pipe");
    fs::remove_file(folder.join("manifest.json")).unwrap();
    nix::unistd::mkfifo(&folder.join("manifest.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    attacks.push((folder, "manifest.json: it is not a regular file"));

    let folder = exported.copy("manifest-size");
    let manifest = File::options().write(true).open(folder.join("manifest.json")).unwrap();
    manifest.set_len(3 << 30).unwrap();
    attacks.push((folder, "larger than 1 MiB"));

    // Its checksum would have been compared, and the answer would show whether the file exists.
    let folder = exported.copy("upwards");
    let empty = json!({ "columns": [], "rows": 0, "sha256": "" });
    edit_manifest(&folder, |manifest| manifest["tables"]["../secret"] = empty.clone());
    attacks.push((folder, "the database has no table ../secret; nothing was restored"));

    let folder = exported.copy("escape");
    edit_manifest(&folder, |manifest| manifest["tables"]["a\u{1b}[2Jb"] = empty.clone());
    attacks.push((folder, "the database has no table a[2Jb"));

    let folder = exported.copy("books");
    edit_manifest(&folder, |manifest| manifest["tables"]["reader_tenants"] = empty.clone());
    attacks.push((folder, "the database has no table reader_tenants"));

    let folder = exported.copy("column");
    edit_manifest(&folder, |manifest| {
        manifest["tables"]["alerts"]["columns"][0] = "a\u{1b}[2Jb".into();
    });
    attacks.push((folder, "the database has no column a[2Jb in alerts"));

    let folder = exported.copy("name");
    edit_manifest(&folder, |manifest| manifest["tables"]["tenants"]["rows"] = 0.into());
    attacks.push((folder, "expected one row of the table tenants"));

    let folder = exported.copy("forever");
    forge(&folder, "incidents", |row| row["created_time"] = "infinity".into());
    attacks.push((folder, "a time must have a year of four digits"));

    let folder = exported.copy("runs");
    forge(&folder, "sync_runs", |row| row["finished_at"] = "infinity".into());
    attacks.push((folder, "a time must have a year of four digits"));

    let folder = exported.copy("two-rows");
    let row = fs::read_to_string(folder.join("sync_state.jsonl")).unwrap().trim().to_owned();
    write(
        &folder,
        "sync_state",
        &format!("{row},{}\n", row.replace(&id(1).to_string(), &id(2).to_string())),
    );
    attacks.push((folder, "sync_state.jsonl"));

    for (folder, expected) in attacks {
        let message = exported.refusal(&folder);
        assert!(message.contains(expected), "{}: {message}", folder.display());
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
    let (embedded, pool) = exported.pool().await;
    for table in ["tenants", "sync_state", "incidents", "alerts"] {
        let count = format!("SELECT count(*) FROM defender.{table} WHERE tenant_id = '{}'", id(1));
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&pool).await.unwrap();
        assert_eq!(count, 0, "{table}");
    }
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn line_without_an_end_is_refused() {
    let exported = Exported::new().await;
    let folder = exported.copy("endless");
    write(&folder, "incidents", &" ".repeat(200 << 20));
    let message = exported.refusal(&folder);
    assert!(message.contains("incidents.jsonl: a line is longer than"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn export_needs_a_private_folder_of_its_owner() {
    let site = Installation::with(vec![spec(1, 5)]).await;
    site.run(&["sync"]).success();
    let folder = |name: &str, mode: u32| {
        let folder = site.path(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        folder
    };
    let export = |folder: &Path| {
        site.run(&["tenant", "export", "tenant-1", "--to", folder.to_str().unwrap()])
    };
    let closed = folder("closed", 0o700);
    let link = site.path("link");
    symlink(&closed, &link).unwrap();
    let file = site.path("file");
    fs::write(&file, "").unwrap();
    let mut refused = vec![
        (folder("open", 0o777), "has mode 0777"),
        (folder("readable", 0o750), "has mode 0750"),
        (link.clone(), "is a symbolic link"),
        (link.join("."), "is a symbolic link"),
        (PathBuf::from(format!("{}/", link.display())), "is a symbolic link"),
        (file, "is not a folder"),
    ];
    if nix::unistd::geteuid().is_root() {
        let foreign = folder("foreign", 0o700);
        std::os::unix::fs::chown(&foreign, Some(65_534), None).unwrap();
        refused.push((foreign, "is owned by user 65534"));
    }
    for (folder, expected) in refused {
        let done = export(&folder);
        assert_eq!(done.code(), Some(2), "{}: {}", folder.display(), done.stderr);
        assert!(done.stderr.contains(expected), "{}: {}", folder.display(), done.stderr);
    }
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
    export(&closed).success();
    assert!(closed.join("manifest.json").exists());
    for entry in fs::read_dir(&closed).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
