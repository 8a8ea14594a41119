//! A reader of one tenant tries every known way to learn values of other tenants.

use futures::TryStreamExt;
use incident_sync::store::readers::ReaderAccess;
use sqlx::migrate::Migrate;
use sqlx::{Connection, PgConnection, Row};

use crate::support::roles::{TABLES, assert_sees, crowded, reader, refused, role, rows, texts};
use crate::support::world::{World, id};

/// What no reader of tenant 1 may come to see: the id of another, which stands in all its titles.
fn assert_shows_no_other_tenant(what: &str, text: &str) {
    for foreign in [2, 3] {
        let foreign = id(foreign).to_string();
        assert!(!text.contains(&foreign), "{what} shows another tenant: {text}");
    }
}

/// The rows of a statement, or its error, as one text.
async fn rows_or_error(connection: &mut PgConnection, statement: &str) -> String {
    match rows(connection, statement).await {
        Ok(rows) => {
            rows.iter().map(|row| row.try_get::<String, _>(0).unwrap_or_default() + "\n").collect()
        }
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test]
async fn no_setting_shows_a_reader_other_tenants() {
    let world = crowded().await;
    let mut reader = reader(&world, "settings", &[1]).await;
    for allowed in [
        format!("SET incident_sync.tenant_id = '{}'", id(2)),
        format!("SELECT set_config('incident_sync.tenant_id', '{}', false)", id(2)),
        "RESET ALL".to_owned(),
        "DISCARD ALL".to_owned(),
        "SET default_transaction_read_only = off".to_owned(),
        "SET search_path = pg_temp, defender, pg_catalog".to_owned(),
        "RESET ROLE".to_owned(),
        "RESET SESSION AUTHORIZATION".to_owned(),
        "SET enable_seqscan = off".to_owned(),
        "LISTEN incidents".to_owned(),
    ] {
        rows(&mut reader, &allowed).await.unwrap();
        assert_sees(&mut reader, &[1], &world).await;
    }
    // Of a group, none of its members' tenants.
    rows(&mut reader, "SET ROLE incident_sync_tenant_reader").await.unwrap();
    assert_sees(&mut reader, &[], &world).await;
    rows(&mut reader, "RESET ROLE; SET row_security = off").await.unwrap();
    for table in TABLES {
        assert_eq!(
            refused(&mut reader, &format!("SELECT count(tenant_id) FROM defender.{table}")).await,
            "42501"
        );
    }
}

#[tokio::test]
async fn reader_is_refused_roles_bookkeeping_and_files() {
    let world = crowded().await;
    let mut reader = reader(&world, "roles", &[1]).await;
    let owner = world.database.get_username();
    let neighbour = role(&world, "neighbour");
    world.store.grant_reader(&neighbour, &ReaderAccess::Tenants(vec![id(2)])).await.unwrap();
    for statement in [
        "SET ROLE incident_sync_reader",
        "SET ROLE incident_sync_writer",
        "SET ROLE incident_sync_dispatcher",
        &format!("SET ROLE {owner}"),
        &format!("SET ROLE {neighbour}"),
        &format!("SET SESSION AUTHORIZATION {owner}"),
        &format!("SELECT set_config('role', '{owner}', false)"),
        "SET session_replication_role = replica",
        "SELECT * FROM defender.reader_tenants",
        "TABLE defender.sync_runs",
        "SELECT lease_owner FROM defender.sync_state",
        "SELECT last_value FROM defender.incident_changes_number",
        "SELECT * FROM _sqlx_migrations",
        "SELECT defender.current_tenant()",
        "SELECT defender.protect('defender.alerts')",
        "SELECT * FROM pg_statistic",
        "SELECT * FROM pg_authid",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT pg_ls_dir('.')",
        "SELECT lo_import('/etc/passwd')",
        "COPY defender.alerts TO '/tmp/alerts'",
        "COPY defender.alerts TO PROGRAM 'cat'",
    ] {
        let code = refused(&mut reader, statement).await;
        assert!(["42501", "25006"].contains(&code.as_str()), "{statement}: {code}");
        assert_sees(&mut reader, &[1], &world).await;
    }
    // Refused up to 16, and NULL since.
    let last = "SELECT pg_sequence_last_value('defender.incident_changes_number')::text";
    let last = rows_or_error(&mut reader, last).await;
    assert!(last == "\n" || last.contains("42501"), "{last}");
}

#[tokio::test]
async fn reader_cannot_create_change_or_lock() {
    let world = crowded().await;
    let mut reader = reader(&world, "maker", &[1]).await;
    // The setting is a guard against accidents, not against him.
    rows(&mut reader, "SET default_transaction_read_only = off").await.unwrap();
    for statement in [
        "CREATE TABLE defender.mine ()",
        "CREATE TABLE reporting.mine ()",
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "CREATE EXTENSION pg_trgm",
        "CREATE TABLE pg_temp.child () INHERITS (defender.alerts)",
        "CREATE TEMP TABLE referring (tenant_id uuid REFERENCES defender.tenants)",
        "CREATE TRIGGER t BEFORE INSERT ON defender.alerts EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE POLICY mine ON defender.alerts USING (true)",
        "CREATE STATISTICS mine ON title, status FROM defender.alerts",
        "ALTER TABLE defender.alerts DISABLE ROW LEVEL SECURITY",
        "ALTER FUNCTION defender.my_tenants SET search_path = pg_temp",
        "CREATE OR REPLACE VIEW reporting.tenant_freshness AS SELECT 1",
        "GRANT incident_sync_reader TO incident_sync_tenant_reader",
        "INSERT INTO defender.reader_tenants SELECT session_user, tenant_id, 0 FROM defender.alerts",
        "INSERT INTO defender.tenants SELECT * FROM defender.tenants",
        "DELETE FROM defender.alerts",
        "UPDATE defender.alerts SET title = 'x'",
        "SELECT title FROM defender.alerts FOR UPDATE",
        "SELECT title FROM defender.alerts FOR KEY SHARE",
        "LOCK TABLE defender.alerts IN ROW SHARE MODE",
        "LOCK TABLE defender.alerts",
        "TRUNCATE defender.alerts",
        "CLUSTER defender.alerts",
        "REINDEX TABLE defender.alerts",
    ] {
        let code = refused(&mut reader, &format!("BEGIN; {statement}")).await;
        // 42P16: a temporary table may refer to temporary tables only. 0A000: this server comes without the extension.
        let is_absent = statement.starts_with("CREATE EXTENSION") && code == "0A000";
        assert!(is_absent || ["42501", "42P16"].contains(&code.as_str()), "{statement}: {code}");
        rows(&mut reader, "ROLLBACK").await.unwrap();
    }
    assert_sees(&mut reader, &[1], &world).await;
}

#[tokio::test]
async fn own_functions_show_a_reader_no_foreign_value() {
    let world = crowded().await;
    let mut reader = reader(&world, "functions", &[1]).await;
    rows(&mut reader, "SET default_transaction_read_only = off").await.unwrap();
    let prepare = "CREATE TEMP TABLE seen (value text);
        CREATE FUNCTION pg_temp.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
            BEGIN INSERT INTO pg_temp.seen VALUES ($1); RETURN true; END $$;
        CREATE FUNCTION pg_temp.same(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
            BEGIN INSERT INTO pg_temp.seen VALUES ($1); RETURN true; END $$;
        CREATE OPERATOR pg_temp.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.same);
        CREATE FUNCTION pg_temp.my_tenants() RETURNS SETOF uuid LANGUAGE sql AS 'SELECT tenant_id FROM defender.tenants';
        CREATE TEMP TABLE reader_tenants (reader name, tenant_id uuid, reader_oid oid);
        CREATE TEMP TABLE pg_roles (oid oid, rolname name);
        CREATE FUNCTION pg_temp.pg_has_role(name, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE VIEW pg_temp.mine AS SELECT * FROM defender.alerts";
    rows(&mut reader, prepare).await.unwrap();
    for path in ["pg_temp, defender, pg_catalog", "pg_temp", "\"$user\", public"] {
        rows(&mut reader, &format!("SET search_path = {path}")).await.unwrap();
        assert_sees(&mut reader, &[1], &world).await;
    }
    rows(&mut reader, "RESET search_path").await.unwrap();
    for probe in [
        "SELECT title FROM defender.alerts WHERE pg_temp.peek(title)",
        "SELECT title FROM defender.alerts WHERE title OPERATOR(pg_temp.===) 'x'",
        "SELECT a.title FROM defender.alerts a JOIN defender.evidence e ON pg_temp.peek(a.title)",
        "SELECT title FROM defender.alerts GROUP BY title HAVING pg_temp.peek(title)",
        "SELECT title FROM defender.alerts ORDER BY pg_temp.peek(title)",
        "SELECT tenant_id::text FROM defender.tenants WHERE pg_temp.peek(tenant_id::text)",
        "SELECT tenant_id::text FROM reporting.tenant_freshness WHERE pg_temp.peek(tenant_id::text)",
        "SELECT title FROM pg_temp.mine WHERE pg_temp.peek(title)",
    ] {
        let answer = rows_or_error(&mut reader, probe).await;
        assert!(answer.contains(&id(1).to_string()), "{probe}: {answer}");
        assert_shows_no_other_tenant(probe, &answer);
    }
    let seen = texts(&mut reader, "SELECT value FROM pg_temp.seen").await;
    assert!(!seen.is_empty());
    assert_shows_no_other_tenant("his own function", &seen.join("\n"));
    for probe in [
        format!(
            "SELECT title FROM defender.alerts WHERE 1 / (CASE tenant_id WHEN '{}' THEN 1 ELSE 0 END) = 1",
            id(1)
        ),
        format!(
            "SELECT title FROM defender.alerts WHERE title = 'secret of {}' OR title::integer = 1",
            id(1)
        ),
        format!(
            "SELECT title FROM defender.alerts WHERE title LIKE '%{}' OR ('x' || title)::xml IS DOCUMENT",
            id(1)
        ),
    ] {
        let answer = rows_or_error(&mut reader, &probe).await;
        assert!(answer.starts_with("secret of"), "a condition met a foreign row: {answer}");
        assert_shows_no_other_tenant(&probe, &answer);
    }
}

#[tokio::test]
async fn copy_cursor_and_prepare_show_own_rows_only() {
    let world = crowded().await;
    let mut connection = reader(&world, "copies", &[1]).await;
    for table in
        ["defender.alerts", "(TABLE defender.alerts)", "(SELECT * FROM defender.incident_payloads)"]
    {
        let copy = connection.copy_out_raw(&format!("COPY {table} TO STDOUT")).await.unwrap();
        let bytes: Vec<_> = copy.try_collect().await.unwrap();
        let text: String =
            bytes.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        assert!(text.contains(&id(1).to_string()));
        assert_shows_no_other_tenant(table, &text);
    }
    let whose = "SELECT DISTINCT tenant_id::text FROM defender.alerts ORDER BY 1";
    rows(&mut connection, &format!("PREPARE whose AS {whose}")).await.unwrap();
    rows(&mut connection, &format!("BEGIN; DECLARE held CURSOR WITH HOLD FOR {whose}; COMMIT"))
        .await
        .unwrap();
    assert_shows_no_other_tenant(
        "a held cursor",
        &rows_or_error(&mut connection, "FETCH ALL FROM held").await,
    );
    let name = role(&world, "copies");
    for tenants in [vec![id(2)], vec![id(1), id(2)], vec![], vec![id(1)]] {
        world.store.grant_reader(&name, &ReaderAccess::Tenants(tenants.clone())).await.unwrap();
        let expected: String = tenants.iter().map(|tenant| format!("{tenant}\n")).collect();
        assert_eq!(rows_or_error(&mut connection, "EXECUTE whose").await, expected);
    }

    // A connection of ours, as a pooler hands it on from one transaction to the next.
    let mut ours = PgConnection::connect_with(&world.database).await.unwrap();
    rows(
        &mut ours,
        &format!("SET ROLE incident_sync_reader; PREPARE whose AS {whose}; EXECUTE whose"),
    )
    .await
    .unwrap();
    for tenant in [2, 1] {
        let writer = format!(
            "SET ROLE incident_sync_writer; SET incident_sync.tenant_id = '{}'",
            id(tenant)
        );
        rows(&mut ours, &writer).await.unwrap();
        assert_eq!(rows_or_error(&mut ours, "EXECUTE whose").await, format!("{}\n", id(tenant)));
    }
    rows(&mut ours, "SET ROLE incident_sync_dispatcher").await.unwrap();
    assert_eq!(refused(&mut ours, "EXECUTE whose").await, "42501");
}

/// The rows that the planner expects.
async fn expected_rows(connection: &mut PgConnection, condition: &str) -> String {
    let plan = rows_or_error(
        connection,
        &format!("EXPLAIN SELECT FROM defender.alerts WHERE {condition}"),
    )
    .await;
    plan.split("rows=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn plans_and_statistics_show_no_foreign_value() {
    let world = crowded().await;
    let mut reader = reader(&world, "planner", &[1]).await;
    for statement in [
        "EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM defender.alerts WHERE title LIKE 'secret%'",
        "EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM reporting.tenant_freshness",
        "SELECT string_agg(s::text, '') FROM pg_stats s WHERE schemaname IN ('defender', 'reporting')",
        "SELECT string_agg(s::text, '') FROM pg_stats_ext s",
        "SELECT string_agg(s::text, '') FROM pg_stat_user_tables s",
        "SELECT string_agg(s::text, '') FROM pg_class s",
        "SELECT string_agg(s::text, '') FROM pg_policies s",
        "SELECT string_agg(pg_get_viewdef(oid), '') FROM pg_class WHERE relkind = 'v'",
        "SELECT string_agg(s::text, '') FROM pg_prepared_statements s",
        "SELECT string_agg(s::text, '') FROM pg_locks s",
        "SELECT string_agg(s::text, '') FROM pg_settings s",
    ] {
        assert_shows_no_other_tenant(statement, &rows_or_error(&mut reader, statement).await);
    }
    assert!(
        texts(&mut reader, "SELECT attname::text FROM pg_stats WHERE schemaname = 'defender'")
            .await
            .is_empty()
    );

    // What others run at this moment is hidden.
    let mut other = PgConnection::connect_with(&world.database).await.unwrap();
    rows(&mut other, &format!("SELECT '{}'", id(2))).await.unwrap();
    let activity = "SELECT string_agg(a::text, '') FROM pg_stat_activity a";
    assert_shows_no_other_tenant(activity, &rows_or_error(&mut reader, activity).await);
    let for_superusers =
        rows_or_error(&mut other, "SELECT string_agg(query, '') FROM pg_stat_activity").await;
    assert!(for_superusers.contains(&id(2).to_string()), "the question works");

    // An expectation that depends on whether others have a value would confirm guesses.
    let unknown = expected_rows(&mut reader, "title = 'nowhere'").await;
    assert_eq!(
        expected_rows(&mut reader, &format!("title = 'secret of {}'", id(3))).await,
        unknown
    );
    let low = expected_rows(&mut reader, "title < 'a'").await;
    assert_eq!(expected_rows(&mut reader, "title < 'zzz'").await, low);
    let collected =
        "SELECT format('%s.%s', attrelid::regclass, attname) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE relnamespace = 'defender'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
        AND atttypid IN ('text'::regtype, 'text[]'::regtype, 'jsonb'::regtype) AND coalesce(attstattarget, -1) <> 0 ORDER BY 1";
    let collected = texts(&mut other, collected).await;
    for word in collected {
        let column = word.rsplit('.').next().unwrap();
        assert!(
            COLLECTED.contains(&column),
            "{word} shows readers values of other tenants; see 0001_tables.sql"
        );
    }
}

/// Words that mean the same for every tenant, and keys: statistics on them reveal nothing.
const COLLECTED: [&str; 26] = [
    "alert_id",
    "category",
    "classification",
    "defender_av_status",
    "delivery_action",
    "detection_source",
    "determination",
    "device_id",
    "entity_type",
    "error_class",
    "field",
    "health_status",
    "investigation_state",
    "kind",
    "mitre_techniques",
    "onboarding_status",
    "os_platform",
    "outcome",
    "registry_value_type",
    "remediation_status",
    "risk_score",
    "service_source",
    "severity",
    "status",
    "verdict",
    "who_must_act",
];

#[tokio::test]
async fn reader_locks_do_not_block_start_or_writes() {
    let world = World::of(20).await;
    let mut reader = reader(&world, "blocker", &[1]).await;
    rows(&mut reader, "BEGIN; LOCK TABLE defender.alerts, defender.incidents IN ACCESS SHARE MODE")
        .await
        .unwrap();
    // The very lock that the migrator takes.
    reader.lock().await.unwrap();
    let started = incident_sync::store::Store::open(&world.database, 2, "blocked".to_owned(), true);
    started.await.unwrap();
    world.successful_run().await;
    world.assert_truth().await;
}
