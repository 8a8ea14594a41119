//! Row-level security: which rows readers and the writer see and change. Roles really log in.

use std::collections::BTreeMap;
use std::time::Duration;

use incident_sync::store::readers::{GrantError, ReaderAccess};
use incident_sync::sync::tenant_run::SyncMode;
use simulator::{Endpoint, ScriptedReply};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Notify;

use crate::support::roles::{
    TABLES, assert_sees, crowded, log_in, reader, refused, role, rows, seen, superuser, texts,
};
use crate::support::world::{World, id};

#[tokio::test]
async fn catalog_has_no_unprotected_table_or_function() {
    let world = World::of(0).await;
    let mut admin = world.pool().acquire().await.unwrap();
    let with_tenant = "SELECT relname::text FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
        WHERE relnamespace = 'defender'::regnamespace AND relkind IN ('r', 'p') AND attname = 'tenant_id'
        AND relname <> 'reader_tenants' ORDER BY relname";
    assert_eq!(
        texts(&mut admin, with_tenant).await,
        TABLES,
        "a new table needs defender.protect, and a place in this list"
    );
    for (found, query) in [
        ("a table without forced row-level security", "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'f', 'm')
            AND relnamespace = 'defender'::regnamespace AND relname <> 'schema_info'
            AND NOT (relrowsecurity AND relforcerowsecurity)"),
        ("a table without its three policies", "SELECT c.relname::text FROM pg_class c
            WHERE relnamespace = 'defender'::regnamespace AND relkind = 'r'
            AND relname NOT IN ('schema_info', 'reader_tenants', 'feed_server') AND NOT EXISTS (
                SELECT FROM pg_policies WHERE schemaname = 'defender' AND tablename = relname
                HAVING array_agg(policyname::text) @> ARRAY['reader', 'tenant_reader', 'writer'])"),
        ("a policy for PUBLIC", "SELECT tablename::text FROM pg_policies WHERE 'public' = ANY (roles)"),
        ("a policy that lets the scoped reader write", "SELECT tablename::text FROM pg_policies
            WHERE cmd <> 'SELECT' AND roles && ARRAY['incident_sync_reader', 'incident_sync_tenant_reader']::name[]"),
        ("a view with its owner's rights, or without a barrier", "SELECT c.oid::regclass::text FROM pg_class c
            WHERE relkind = 'v' AND relnamespace IN ('defender'::regnamespace, 'reporting'::regnamespace)
            AND NOT coalesce(reloptions @> ARRAY['security_invoker=true', 'security_barrier=true'], false)"),
        ("a materialized view", "SELECT matviewname::text FROM pg_matviews"),
        ("a right of PUBLIC on a schema", "SELECT nspname::text FROM pg_namespace, aclexplode(nspacl) WHERE grantee = 0
            AND nspname IN ('defender', 'reporting')"),
        ("a right of PUBLIC on a table", "SELECT relname::text FROM pg_class, aclexplode(relacl) WHERE grantee = 0
            AND relnamespace IN ('defender'::regnamespace, 'reporting'::regnamespace)"),
        ("a function that PUBLIC may call", "SELECT proname::text FROM pg_proc,
            aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0
            AND pronamespace IN ('defender'::regnamespace, 'reporting'::regnamespace)"),
        ("a SECURITY DEFINER without search_path", "SELECT proname::text FROM pg_proc WHERE prosecdef
            AND pronamespace IN ('defender'::regnamespace, 'reporting'::regnamespace)
            AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)"),
        ("a right to TRUNCATE, to refer or to make triggers", "SELECT table_name::text FROM information_schema.table_privileges
            WHERE grantee LIKE 'incident\\_sync\\_%' AND privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')"),
        ("a right to CREATE in a schema", "SELECT nspname || ' by ' || rolname FROM pg_namespace, pg_roles
            WHERE rolname LIKE 'incident\\_sync\\_%' AND nspname !~ '^pg_(toast_)?temp'
            AND has_schema_privilege(rolname, pg_namespace.oid, 'CREATE')"),
        ("a right to CREATE in the database", "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'incident\\_sync\\_%'
            AND has_database_privilege(rolname, current_database(), 'CREATE')"),
        ("a role that can do more than it should", "SELECT rolname::text FROM pg_roles
            WHERE rolname LIKE 'incident\\_sync\\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin
            OR rolreplication)"),
        ("a role of ours that is a member of another", "SELECT rolname::text FROM pg_auth_members
            JOIN pg_roles ON pg_roles.oid = member WHERE rolname LIKE 'incident\\_sync\\_%'"),
        ("a table of data that the dispatcher may read", "SELECT relname::text FROM pg_class
            WHERE relnamespace = 'defender'::regnamespace AND relkind = 'r'
            AND relname NOT IN ('tenants', 'sync_state', 'schema_info', 'summaries')
            AND has_any_column_privilege('incident_sync_dispatcher', oid, 'SELECT, INSERT, UPDATE')"),
    ] {
        assert_eq!(texts(&mut admin, query).await, Vec::<String>::new(), "{found}");
    }
}

#[tokio::test]
async fn reader_sees_exactly_its_tenants_everywhere() {
    let world = crowded().await;
    let mut one = reader(&world, "one", &[1]).await;
    assert_sees(&mut one, &[1], &world).await;
    let mut two = reader(&world, "two", &[1, 2]).await;
    assert_sees(&mut two, &[1, 2], &world).await;

    // A later grant replaces the earlier one, in sessions that are open too.
    world
        .store
        .grant_reader(&role(&world, "two"), &ReaderAccess::Tenants(vec![id(2)]))
        .await
        .unwrap();
    assert_sees(&mut two, &[2], &world).await;
    world.store.grant_reader(&role(&world, "two"), &ReaderAccess::Tenants(vec![])).await.unwrap();
    assert_sees(&mut two, &[], &world).await;

    world.store.grant_reader(&role(&world, "two"), &ReaderAccess::All).await.unwrap();
    let everything = seen(&mut world.pool().acquire().await.unwrap()).await;
    assert_eq!(seen(&mut two).await, everything);
    assert_eq!(refused(&mut two, "UPDATE defender.alerts SET title = 'x'").await, "25006");
    rows(&mut two, "SET default_transaction_read_only = off").await.unwrap();
    assert_eq!(refused(&mut two, "UPDATE defender.alerts SET title = 'x'").await, "42501");
    world
        .store
        .grant_reader(&role(&world, "two"), &ReaderAccess::Tenants(vec![id(1)]))
        .await
        .unwrap();
    assert_sees(&mut two, &[1], &world).await;

    // Who comes later under the same name gets nothing from his predecessor but what a grant gives him.
    two.close().await.unwrap();
    let name = role(&world, "two");
    superuser(&world, &format!("DROP OWNED BY {name}; DROP ROLE {name}; CREATE ROLE {name} LOGIN"))
        .await;
    let mut successor = log_in(&world.database, &name).await;
    assert!(seen(&mut successor).await.is_empty());
    world.store.grant_reader(&name, &ReaderAccess::Tenants(vec![id(2)])).await.unwrap();
    assert_sees(&mut successor, &[2], &world).await;
}

#[tokio::test]
async fn reader_gets_limits_and_chosen_ones_stay() {
    let world = World::of(0).await;
    let name = role(&world, "limited");
    let grant = async || world.store.grant_reader(&name, &ReaderAccess::All).await.unwrap();
    assert!(grant().await);
    let mut connection = log_in(&world.database, &name).await;
    let shown = "SELECT setting::text FROM pg_settings WHERE name IN
        ('default_transaction_read_only', 'idle_in_transaction_session_timeout', 'statement_timeout') ORDER BY name";
    assert_eq!(texts(&mut connection, shown).await, ["on", "60000", "300000"]);
    let database = world.database.get_database().unwrap();
    superuser(
        &world,
        &format!("ALTER ROLE {name} IN DATABASE {database} SET statement_timeout = '1h'"),
    )
    .await;
    assert!(!grant().await);
    let mut connection = log_in(&world.database, &name).await;
    assert_eq!(texts(&mut connection, shown).await, ["on", "60000", "3600000"]);
}

#[tokio::test]
async fn role_with_wider_rights_is_refused_as_reader() {
    let world = World::of(0).await;
    let own = |name: &str| role(&world, name);
    let database = world.database.get_database().unwrap();
    reader(&world, "granted", &[1]).await;
    for (name, made, word) in [
        ("super", "SUPERUSER", "superuser"),
        ("bypass", "BYPASSRLS", "BYPASSRLS"),
        ("maker", "CREATEROLE", "CREATEROLE"),
        ("replica", "REPLICATION", "REPLICATION"),
        ("writes", "IN ROLE incident_sync_writer", "chooses for itself"),
        ("keeps", "IN ROLE incident_sync_dispatcher", "chooses for itself"),
        ("files", "IN ROLE pg_read_server_files", "server's files"),
        ("reads", "IN ROLE pg_read_all_data", "reads or stops"),
        ("monitors", "IN ROLE pg_monitor", "reads or stops"),
        ("signals", "IN ROLE pg_signal_backend", "reads or stops"),
        ("writes_all", "IN ROLE pg_write_all_data", "no policy guards"),
        ("via", &format!("NOINHERIT IN ROLE {}", own("bypass")), "a member of"),
        ("another", &format!("IN ROLE {}", own("granted")), "tenants of its own"),
        ("twofold", &format!("IN ROLE {}", own("everybody")), "reads all tenants"),
        ("builder", "", "owner of incident-sync's tables"),
        ("landlord", "", "owner of this database"),
    ] {
        let name = own(name);
        if made.ends_with("everybody") {
            superuser(&world, &format!("CREATE ROLE {made}", made = own("everybody"))).await;
            superuser(&world, &format!("GRANT incident_sync_reader TO {}", own("everybody"))).await;
        }
        superuser(&world, &format!("CREATE ROLE {name} {made}")).await;
        match word {
            "owner of incident-sync's tables" => {
                superuser(
                    &world,
                    &format!("ALTER VIEW reporting.tenant_freshness OWNER TO {name}"),
                )
                .await;
            }
            "owner of this database" => {
                superuser(&world, &format!("ALTER DATABASE {database} OWNER TO {name}")).await;
            }
            _ => {}
        }
        let error =
            world.store.grant_reader(&name, &ReaderAccess::Tenants(vec![id(1)])).await.unwrap_err();
        assert!(
            matches!(error, GrantError::Refused { .. }) && error.to_string().contains(word),
            "{name}: {error}"
        );
        let granted = format!(
            "SELECT rolname::text FROM pg_auth_members JOIN pg_roles ON pg_roles.oid = roleid
            WHERE member = '{name}'::regrole AND rolname = 'incident_sync_tenant_reader'"
        );
        assert!(
            texts(&mut world.pool().acquire().await.unwrap(), &granted).await.is_empty(),
            "{name}"
        );
    }
    // What reads everything anyway may be a member of what reads everything.
    assert!(!world.store.grant_reader(&own("twofold"), &ReaderAccess::All).await.unwrap());
}

/// As the product's own transactions begin.
async fn as_writer(connection: &mut PgConnection, tenant: Option<u128>) {
    let tenant = tenant.map_or_else(String::new, |number| id(number).to_string());
    rows(
        connection,
        &format!("SET ROLE incident_sync_writer; SET incident_sync.tenant_id = '{tenant}'"),
    )
    .await
    .unwrap();
}

/// The statement's effect, taken back: how many rows it touched, or Postgres's code.
async fn touched(connection: &mut PgConnection, statement: &str) -> Result<u64, String> {
    rows(connection, "BEGIN").await.unwrap();
    let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await;
    rows(connection, "ROLLBACK").await.unwrap();
    done.map(|done| done.rows_affected())
        .map_err(|error| error.as_database_error().unwrap().code().unwrap().into_owned())
}

#[tokio::test]
async fn writer_changes_no_row_of_another_tenant() {
    let world = crowded().await;
    let mut all = seen(&mut world.pool().acquire().await.unwrap()).await;
    // A superuser's session, as the private server's is: the role that it takes on is what counts.
    let mut writer = PgConnection::connect_with(&world.database).await.unwrap();
    for table in TABLES {
        let its_own = all.get_mut(table).unwrap().remove(&id(1)).unwrap().unsigned_abs();
        as_writer(&mut writer, Some(1)).await;
        let delete = format!("DELETE FROM defender.{table}");
        let update = format!("UPDATE defender.{table} SET tenant_id = tenant_id");
        let steal = format!("UPDATE defender.{table} SET tenant_id = '{}'", id(2));
        // What it may not do at all is refused before any policy is asked.
        let may =
            |done: Result<u64, String>| done == Ok(its_own) || done == Err("42501".to_owned());
        for statement in [&delete, &update] {
            let done = touched(&mut writer, statement).await;
            assert!(may(done.clone()), "{statement}: {done:?}, and {its_own} are its own");
        }
        assert_eq!(touched(&mut writer, &steal).await, Err("42501".to_owned()), "{table}");
        assert_eq!(
            touched(&mut writer, &format!("TRUNCATE defender.{table}")).await,
            Err("42501".to_owned()),
            "{table}"
        );
        assert_forged_insert_fails(&world, &mut writer, table).await;

        as_writer(&mut writer, None).await;
        for statement in [&delete, &update] {
            let done = touched(&mut writer, statement).await;
            assert!(
                done == Ok(0) || done == Err("42501".to_owned()),
                "{statement} without a tenant: {done:?}"
            );
        }
    }
    as_writer(&mut writer, None).await;
    assert!(
        seen(&mut writer).await.values().all(BTreeMap::is_empty),
        "without a tenant nothing is visible"
    );

    rows(&mut writer, "SET ROLE incident_sync_dispatcher").await.unwrap();
    let visible: Vec<&str> = seen(&mut writer).await.into_keys().collect();
    assert_eq!(visible, ["summaries", "sync_state", "tenants"]);
    for table in TABLES.into_iter().filter(|table| !visible.contains(table)) {
        assert_eq!(
            touched(&mut writer, &format!("DELETE FROM defender.{table}")).await,
            Err("42501".to_owned())
        );
    }
}

/// A copy of another tenant's row, as new and over the one that is there.
async fn assert_forged_insert_fails(world: &World, writer: &mut PgConnection, table: &str) {
    let mut admin = world.pool().acquire().await.unwrap();
    let row = format!(
        "SELECT to_jsonb(t)::text FROM defender.{table} t WHERE tenant_id = '{}' LIMIT 1",
        id(2)
    );
    let row = texts(&mut admin, &row).await.remove(0).replace('\'', "''");
    let key = format!(
        "SELECT quote_ident(attname)::text FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
         WHERE indrelid = 'defender.{table}'::regclass AND indisprimary"
    );
    let key = texts(&mut admin, &key).await.join(", ");
    for conflict in
        [String::new(), format!("ON CONFLICT ({key}) DO UPDATE SET tenant_id = excluded.tenant_id")]
    {
        let insert = format!(
            "INSERT INTO defender.{table} OVERRIDING SYSTEM VALUE
             SELECT * FROM jsonb_populate_record(NULL::defender.{table}, '{row}') {conflict}"
        );
        assert_eq!(touched(writer, &insert).await, Err("42501".to_owned()), "{table} {conflict}");
    }
}

/// The engine as the daemon drives it, until this many runs of the kind have ended.
async fn runs_of_kind(world: &World, kind: &str) {
    let due = "UPDATE defender.sync_state SET next_attempt_at = now(), poll_due_at = now() + interval '1 h',
        open_due_at = now() + CASE WHEN $1 = 'open' THEN '0 h' ELSE '1 h' END::interval,
        reconcile_due_at = now() + CASE WHEN $1 = 'reconcile' THEN '0 h' ELSE '1 h' END::interval";
    sqlx::query(due).bind(kind).execute(world.pool()).await.unwrap();
    let (_, engine) = world.other_instance("daemon", 2).await;
    let ended = async {
        let count = "SELECT count(*) FROM defender.sync_runs WHERE kind = $1";
        while sqlx::query_scalar::<_, i64>(count).bind(kind).fetch_one(world.pool()).await.unwrap()
            == 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        engine.stop.cancel();
    };
    let wake = Notify::new();
    let both = async { tokio::join!(engine.run(&wake), ended).0.unwrap() };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("a run of the kind ends");
}

#[tokio::test]
async fn page_with_foreign_incident_is_never_stored() {
    let world = World::of(5).await;
    world.successful_run().await;
    let before = world.tuples().await;
    let uri = format!("https://security.microsoft.com/incidents/9?tid={}", id(2));
    let good = r#"{"incidentId":901,"lastUpdateTime":"2026-11-22T10:00:00Z","status":"Active"}"#;
    // What cannot be decoded would go to the quarantine, and that is the tenant's own too.
    for foreign in [
        format!(
            r#"{{"incidentId":902,"lastUpdateTime":"2026-11-22T11:00:00Z","incidentUri":"{uri}"}}"#
        ),
        format!(r#"{{"incidentId":902,"incidentUri":"{uri}"}}"#),
        format!(r#"{{"incidentUri":"{uri}","incidentId":"?","lastUpdateTime":null}}"#),
        format!(
            r#"{{"incidentUri":"{uri}","incidentId":902,"lastUpdateTime":"2026-11-22T11:00:00Z","incidentUri":null,"incidentId":903}}"#
        ),
    ] {
        let page = format!(r#"{{"value":[{good},{foreign}]}}"#);
        for (kind, asked) in [
            ("manual", Some(SyncMode::Incremental)),
            ("manual", Some(SyncMode::Full)),
            ("open", None),
            ("reconcile", None),
        ] {
            sqlx::query("DELETE FROM defender.sync_runs").execute(world.pool()).await.unwrap();
            world.service().script(
                id(1),
                Endpoint::Incidents,
                vec![ScriptedReply::Body(page.clone())],
            );
            match asked {
                Some(asked) => drop(world.run_in_mode(asked).await),
                None => runs_of_kind(&world, kind).await,
            }
            let recorded: (String, String, i64) = sqlx::query_as(
                "SELECT outcome, error_class, (SELECT count(*) FROM defender.sync_runs WHERE kind = $1) FROM defender.sync_runs LIMIT 1",
            )
            .bind(kind)
            .fetch_one(world.pool())
            .await
            .unwrap();
            assert_eq!(
                recorded,
                ("parked".to_owned(), "security".to_owned(), 1),
                "{kind} {asked:?}: {foreign}"
            );
            assert_eq!(
                world.tuples().await,
                before,
                "{kind} {asked:?} stored something beside {foreign}"
            );
        }
    }
}
