//! No code of another user runs in our transactions, whatever that user creates and whatever the search path is.

use incident_sync::store::readers::ReaderAccess;
use incident_sync::store::{MIGRATIONS, Store, apply_migrations};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::support::postgres;
use crate::support::roles::{log_in, reader, refused, role, rows, superuser, texts};
use crate::support::world::{World, id, spec};

/// Overloads that fit calls of ours better than the built-in functions do, each with a sequence that counts its calls: what a
/// sequence has counted stays when the transaction is rolled back. The first one also tries to take the database over.
async fn plant(stranger: &mut PgConnection, schema: &str) {
    let name_of_stranger = texts(stranger, "SELECT session_user::text").await.remove(0);
    let takeover = "EXECUTE 'RESET ROLE';
        INSERT INTO defender.reader_tenants SELECT 'STRANGER', tenant_id FROM defender.tenants ON CONFLICT DO NOTHING;
        EXECUTE 'SET LOCAL ROLE incident_sync_writer';";
    for (name, arguments, returns, body) in [
        ("quote_ident", "name", "text", "RETURN pg_catalog.quote_ident($1::text);"),
        ("format", "text, name", "text", "RETURN pg_catalog.format($1, $2::text);"),
        ("format", "text, text", "text", "RETURN pg_catalog.format($1, VARIADIC ARRAY[$2]);"),
        (
            "format",
            "text, regclass, name",
            "text",
            "RETURN pg_catalog.format($1, VARIADIC ARRAY[$2::text, $3::text]);",
        ),
        ("format", "text, bigint, uuid", "text", "RETURN 'https://stranger.example/';"),
        (
            "concat_ws",
            "text, text, text",
            "text",
            "RETURN pg_catalog.concat_ws($1, VARIADIC ARRAY[$2, $3]);",
        ),
        (
            "array_position",
            "smallint[], smallint",
            "integer",
            "RETURN pg_catalog.array_position($1::int[], $2::int);",
        ),
        (
            "unnest",
            "uuid[]",
            "SETOF uuid",
            "RETURN QUERY SELECT pg_catalog.unnest($1::text[])::uuid;",
        ),
        ("same", "oid, regnamespace", "boolean", "RETURN $1::bigint = $2::bigint;"),
        ("same", "oid, regtype", "boolean", "RETURN $1::bigint = $2::bigint;"),
    ] {
        let takeover = if name == "quote_ident" { takeover } else { "" };
        let function = format!(
            "CREATE SEQUENCE IF NOT EXISTS SCHEMA.NAME; GRANT ALL ON SEQUENCE SCHEMA.NAME TO PUBLIC;
             CREATE FUNCTION SCHEMA.NAME({arguments}) RETURNS {returns} LANGUAGE plpgsql AS $f$
             BEGIN IF session_user::text <> 'STRANGER' THEN PERFORM pg_catalog.nextval('SCHEMA.NAME'); {takeover} END IF;
                {body} END $f$"
        );
        let function = function
            .replace("SCHEMA", schema)
            .replace("NAME", name)
            .replace("STRANGER", &name_of_stranger);
        rows(stranger, &function).await.unwrap();
    }
    let operators =
        "CREATE OPERATOR SCHEMA.= (LEFTARG = oid, RIGHTARG = regnamespace, FUNCTION = SCHEMA.same);
        CREATE OPERATOR SCHEMA.= (LEFTARG = oid, RIGHTARG = regtype, FUNCTION = SCHEMA.same)";
    rows(stranger, &operators.replace("SCHEMA", schema)).await.unwrap();
}

/// The planted functions that another user than their maker has called.
async fn called(options: &PgConnectOptions) -> Vec<String> {
    let mut admin = PgConnection::connect_with(options).await.unwrap();
    let called = "SELECT schemaname || '.' || sequencename FROM pg_sequences
        WHERE schemaname <> 'defender' AND last_value IS NOT NULL ORDER BY 1";
    texts(&mut admin, called).await
}

/// Everything that a daemon and an operator do.
async fn work(world: &World) {
    world.successful_run().await;
    for tenant in world.tenants() {
        world.store.summarise(tenant.id).await.unwrap();
        assert!(world.store.park(tenant.id, "a test", Some("a reason")).await.unwrap());
        assert!(world.store.resume(tenant.id, "a test").await.unwrap());
        let mut exported = world.store.snapshot_rows(tenant.id).await.unwrap();
        for table in 0..exported.tables.len() {
            exported.open(table).await.unwrap();
            while !exported.next().await.unwrap().is_empty() {}
        }
        world.store.recent_runs(tenant.id.0, 10).await.unwrap();
    }
    world.store.inspect().await.unwrap().schema.unwrap().unwrap();
    world.store.check_schema().await.unwrap();
    world.store.fleet().await.unwrap();
    world.store.tenant_status().await.unwrap();
    world.store.freshness().await.unwrap();
}

async fn played_through(schemas: &[&str], grant: &str) {
    let world = World::with(vec![spec(1, 12), spec(2, 12)]).await;
    let mut stranger = reader(&world, "stranger", &[1]).await;
    let grant = grant.replace("READER", &role(&world, "stranger"));
    superuser(&world, &grant.replace("DATABASE_NAME", world.database.get_database().unwrap()))
        .await;
    rows(&mut stranger, "SET default_transaction_read_only = off").await.unwrap();
    for schema in schemas {
        if *schema != "public" {
            let make = format!("CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO PUBLIC");
            rows(&mut stranger, &make).await.unwrap();
        }
        plant(&mut stranger, schema).await;
    }

    world.successful_run().await;
    world.store.summarise(world.tenants()[0].id).await.unwrap();
    assert_eq!(
        called(&world.database).await,
        Vec::<String>::new(),
        "code of the stranger ran in a poll"
    );
    work(&world).await;
    world.later();
    world.successful_run().await;

    assert_eq!(called(&world.database).await, Vec::<String>::new(), "code of the stranger ran");
    let sees = "SELECT DISTINCT tenant_id::text FROM reporting.incidents";
    assert_eq!(texts(&mut stranger, sees).await, [id(1).to_string()]);
    world.assert_truth().await;
}

#[tokio::test]
async fn functions_planted_in_public_never_run() {
    played_through(&["public"], "GRANT CREATE ON SCHEMA public TO PUBLIC").await;
}

#[tokio::test]
async fn functions_in_schemas_named_like_roles_never_run() {
    let schemas = ["incident_sync_writer", "incident_sync_dispatcher", "incident_sync_reader"];
    played_through(&schemas, "GRANT CREATE ON DATABASE DATABASE_NAME TO READER").await;
}

/// The name of a stranger that may log in.
async fn stranger(admin: &mut PgConnection, options: &PgConnectOptions) -> String {
    let name = format!("{}_stranger", options.get_database().unwrap());
    rows(admin, &format!("CREATE ROLE {name} LOGIN")).await.unwrap();
    name
}

#[tokio::test]
async fn functions_planted_before_migration_never_run() {
    let options = postgres::empty_database().await;
    let mut admin = PgConnection::connect_with(&options).await.unwrap();
    let name = stranger(&mut admin, &options).await;
    rows(&mut admin, "GRANT CREATE ON SCHEMA public TO PUBLIC").await.unwrap();
    plant(&mut log_in(&options, &name).await, "public").await;

    apply_migrations(&options).await.unwrap();

    // A view calls the function that fitted when the view was made.
    let tenant = id(1);
    let row = format!(
        "INSERT INTO defender.tenants (tenant_id, name, enabled) VALUES ('{tenant}', 'Contoso', true);
         INSERT INTO defender.incidents (tenant_id, incident_id, last_update_time) VALUES ('{tenant}', 1, now())"
    );
    rows(&mut admin, &row).await.unwrap();
    let url = texts(&mut admin, "SELECT portal_url FROM reporting.incidents").await;
    assert_eq!(url, [format!("https://security.microsoft.com/incidents/1?tid={tenant}")]);
    assert_eq!(called(&options).await, Vec::<String>::new(), "code of the stranger ran");
    let store = Store::open(&options, 2, "test".to_owned(), true).await.unwrap();
    assert!(store.foreign_owners().await.unwrap().is_empty());
}

#[tokio::test]
async fn schema_of_another_user_is_refused_by_migrate() {
    let options = postgres::empty_database().await;
    let mut admin = PgConnection::connect_with(&options).await.unwrap();
    let (name, database) = (stranger(&mut admin, &options).await, options.get_database().unwrap());
    let make = format!(
        "GRANT CREATE ON DATABASE {database} TO {name}; GRANT CREATE ON SCHEMA public TO {name};
         SET SESSION AUTHORIZATION {name}; CREATE SCHEMA defender; CREATE SEQUENCE public.ran; GRANT ALL ON SEQUENCE public.ran TO PUBLIC;
         CREATE VIEW public._sqlx_migrations AS SELECT nextval('public.ran') AS version, ''::bytea AS checksum, true AS success;
         GRANT ALL ON public._sqlx_migrations TO PUBLIC; RESET SESSION AUTHORIZATION"
    );
    rows(&mut admin, &make).await.unwrap();
    let refusal = apply_migrations(&options).await.unwrap_err().to_string();
    for what in ["schema defender", "relation public._sqlx_migrations", &name] {
        assert!(refusal.contains(what), "{refusal}");
    }
    assert_eq!(called(&options).await, Vec::<String>::new(), "code of the stranger ran");
    rows(&mut admin, "DROP SCHEMA defender; DROP VIEW public._sqlx_migrations").await.unwrap();
    apply_migrations(&options).await.unwrap();
}

#[tokio::test]
async fn foreign_functions_called_by_ours_are_named() {
    let world = World::of(1).await;
    let name = role(&world, "author");
    let planted = format!(
        "CREATE ROLE {name}; GRANT CREATE ON SCHEMA public TO {name}; SET ROLE {name};
         CREATE FUNCTION public.upper(name) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
         CREATE FUNCTION public.trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE FUNCTION public.same(name, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = uuid, FUNCTION = public.same);
         RESET ROLE"
    );
    superuser(&world, &planted).await;
    assert!(
        world.store.foreign_owners().await.unwrap().is_empty(),
        "what nothing of ours calls is not ours to judge"
    );
    for (statement, what) in [
        (
            "CREATE VIEW reporting.planted AS SELECT public.upper('x'::name)",
            "rule _RETURN on view reporting.planted",
        ),
        (
            "CREATE POLICY planted ON defender.audit USING (name 'x' OPERATOR(public.=) tenant_id)",
            "policy planted on table",
        ),
        (
            "ALTER TABLE defender.audit ALTER actor SET DEFAULT public.upper('x'::name)",
            "default value for column actor",
        ),
        (
            "CREATE TRIGGER planted BEFORE INSERT ON defender.audit EXECUTE FUNCTION public.trigger()",
            "trigger planted on",
        ),
    ] {
        superuser(&world, statement).await;
        let named = world.store.foreign_owners().await.unwrap();
        let is_named =
            |line: &String| line.contains(what) && line.contains("public.") && line.contains(&name);
        assert!(named.iter().any(is_named), "{statement}: {named:?}");
    }
    let refusal =
        Store::open(&world.database, 1, "refused".to_owned(), false).await.unwrap_err().to_string();
    assert!(refusal.contains("trigger planted on"), "{refusal}");
}

/// A function and an operator for each built-in one with the same types: they raise, and stand first in the path.
const TWINS: &str = r"
    CREATE SCHEMA twins;
    GRANT USAGE ON SCHEMA twins TO PUBLIC;
    DO $$
    DECLARE
        twin record;
    BEGIN
        FOR twin IN
            SELECT proname, CASE WHEN proretset THEN 'SETOF ' ELSE '' END || format_type(prorettype, NULL) AS returned,
                array_to_string(ARRAY(SELECT format_type(argument, NULL) FROM unnest(proargtypes) argument), ', ') AS arguments
            FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND proargmodes IS NULL AND NOT EXISTS (
                SELECT FROM pg_type WHERE typtype = 'p' AND (pg_type.oid = prorettype OR pg_type.oid = ANY (proargtypes)))
        LOOP
            EXECUTE format('CREATE FUNCTION twins.%I(%s) RETURNS %s LANGUAGE plpgsql AS
                ''BEGIN RAISE EXCEPTION $r$the twin of %1$s ran$r$; END''', twin.proname, twin.arguments, twin.returned);
        END LOOP;
        FOR twin IN
            SELECT oprname, p.proname, format_type(oprleft, NULL) AS leftarg, format_type(oprright, NULL) AS rightarg
            FROM pg_operator
            JOIN pg_proc b ON b.oid = oprcode
            JOIN pg_proc p ON p.proname = b.proname AND p.proargtypes = b.proargtypes AND p.pronamespace = 'twins'::regnamespace
            WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b'
                AND oprleft = p.proargtypes[0] AND oprright = p.proargtypes[1]
        LOOP
            EXECUTE format('CREATE OPERATOR twins.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = twins.%I)',
                twin.oprname, twin.leftarg, twin.rightarg, twin.proname);
        END LOOP;
    END $$";

/// A session in whose path the twins come first.
fn among_twins(world: &World) -> PgConnectOptions {
    world.database.clone().options([("search_path", "twins,pg_catalog")])
}

#[tokio::test]
async fn transactions_ignore_the_session_search_path() {
    let mut world = World::with(vec![spec(1, 12), spec(2, 12)]).await;
    superuser(&world, TWINS).await;
    let home = world.database.clone();
    let mut session = PgConnection::connect_with(&among_twins(&world)).await.unwrap();
    for expression in ["SELECT now()", "SELECT 1 = 1", "SELECT lower('A')"] {
        assert_eq!(
            refused(&mut session, expression).await,
            "P0001",
            "the twins run where they can"
        );
    }

    world.database = among_twins(&world);
    apply_migrations(&world.database).await.unwrap();
    (world.store, world.engine) = world.other_instance("among twins", 2).await;
    work(&world).await;
    world.later();
    world.successful_run().await;
    let name = role(&world, "granted");
    assert!(world.store.grant_reader(&name, &ReaderAccess::Tenants(vec![id(1)])).await.unwrap());
    assert_eq!(world.store.find_tenants(&["tenant-1".to_owned()]).await.unwrap().len(), 1);

    let store = world.store.clone();
    world.database = home;
    (world.store, world.engine) = world.other_instance("plain", 2).await;
    world.assert_truth().await;
    let purged = store.purge(world.tenants()[0].id, "a test", |_, _| {}).await.unwrap();
    assert_eq!(purged["incidents"], 12);
}

#[tokio::test]
async fn functions_and_views_ignore_caller_search_path() {
    let world = World::with(vec![spec(1, 12)]).await;
    world.successful_run().await;
    superuser(&world, TWINS).await;
    let mut session = PgConnection::connect_with(&among_twins(&world)).await.unwrap();
    let begin = format!(
        "BEGIN; SET LOCAL ROLE incident_sync_writer; SET LOCAL incident_sync.tenant_id = '{}'",
        id(1)
    );
    rows(&mut session, &begin).await.unwrap();
    for statement in [
        "INSERT INTO defender.incidents (tenant_id, incident_id, last_update_time, status, assigned_to)
         VALUES ('TENANT', 9001, '2026-11-01Z', 'Active', 'Automation')",
        "UPDATE defender.incidents SET status = 'Resolved', assigned_to = 'ann'",
        "INSERT INTO defender.incident_changes (tenant_id, incident_id, field, changed_at)
         VALUES ('TENANT', 9001, 'status', '2026-11-01Z'), ('TENANT', 9001, 'severity', '2026-11-01Z')",
        "SELECT defender.summarise('TENANT')",
        "SELECT defender.is_acknowledged('Active', 'ann'), defender.severity_rank('High'), defender.severity_of_rank(1)",
        "SELECT defender.current_tenant(), defender.continue_feed(), defender.next_change_id(), defender.forget_readers()",
        "DELETE FROM defender.alerts",
        "RESET ROLE",
        "CREATE TABLE defender.unprotected (tenant_id uuid); SELECT defender.protect('defender.unprotected')",
        "SET LOCAL ROLE incident_sync_reader",
    ] {
        let done = rows(&mut session, &statement.replace("TENANT", &id(1).to_string())).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    let views = "SELECT c.oid::regclass::text FROM pg_class c WHERE relkind = 'v'
        AND relnamespace IN ('defender'::regnamespace, 'reporting'::regnamespace)";
    for view in texts(&mut admin, views).await {
        rows(&mut session, &format!("TABLE {view}"))
            .await
            .unwrap_or_else(|error| panic!("{view}: {error}"));
    }
}

#[tokio::test]
async fn every_function_sets_its_search_path() {
    let mut connection = PgConnection::connect_with(&postgres::database().await).await.unwrap();
    // A body that was parsed at its definition names no function by a name any more.
    let without = "SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace IN ('defender'::regnamespace, 'reporting'::regnamespace)
            AND prosqlbody IS NULL AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)";
    assert_eq!(
        texts(&mut connection, without).await,
        Vec::<String>::new(),
        "a new function needs SET search_path = pg_catalog, pg_temp, or a body that begins with RETURN or BEGIN ATOMIC"
    );
}

#[tokio::test]
async fn listed_function_privileges_match_migrations() {
    let mut connection =
        PgConnection::connect_with(&postgres::empty_database().await).await.unwrap();
    MIGRATIONS.run(&mut connection).await.unwrap();
    let off = texts(&mut connection, include_str!("../../src/store/sql/function_rights.sql")).await;
    assert_eq!(off, Vec::<String>::new(), "add the function to src/store/sql/function_rights.sql");
}

#[tokio::test]
async fn migrate_restores_function_privileges() {
    let world = World::of(3).await;
    // What pg_restore --no-privileges leaves.
    superuser(
        &world,
        "UPDATE pg_proc SET proacl = NULL WHERE pronamespace = 'defender'::regnamespace",
    )
    .await;
    let public =
        "SELECT proname::text FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
        WHERE pronamespace = 'defender'::regnamespace AND grantee = 0";
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    assert!(texts(&mut admin, public).await.contains(&"forget_readers".to_owned()));
    let off = world.store.inspect().await.unwrap().schema.unwrap().unwrap().function_rights;
    for statement in [
        "REVOKE EXECUTE ON ROUTINE defender.forget_readers() FROM PUBLIC",
        "GRANT EXECUTE ON ROUTINE defender.my_tenants() TO incident_sync_tenant_reader",
    ] {
        assert!(off.iter().any(|line| line == statement), "{off:?}");
    }
    // Instances that start together do not fail one another.
    let (one, two) =
        tokio::join!(apply_migrations(&world.database), apply_migrations(&world.database));
    one.and(two).unwrap();
    assert_eq!(texts(&mut admin, public).await, Vec::<String>::new());
    assert_eq!(world.store.function_rights().await.unwrap(), Vec::<String>::new());
    world.successful_run().await;
}

#[tokio::test]
async fn every_create_right_is_found_with_its_cure() {
    let world = World::of(0).await;
    let database = world.database.get_database().unwrap();
    reader(&world, "creator", &[1]).await;
    let (creator, team, boss) =
        (role(&world, "creator"), role(&world, "team"), role(&world, "boss"));
    superuser(
        &world,
        &format!("CREATE ROLE {team}; CREATE ROLE {boss}; GRANT {team} TO {creator}"),
    )
    .await;
    let of_others = format!("GRANT CREATE ON SCHEMA public TO {boss} WITH GRANT OPTION");
    superuser(&world, &of_others).await;
    let found = async || world.store.inspect().await.unwrap().create_rights;
    assert_eq!(found().await, Vec::<String>::new(), "what no reader may do is no finding");
    for (grant, cure) in [
        (
            "GRANT CREATE ON SCHEMA public TO PUBLIC".to_owned(),
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned(),
        ),
        (
            format!("GRANT CREATE ON DATABASE {database} TO PUBLIC"),
            format!("REVOKE CREATE ON DATABASE {database} FROM PUBLIC"),
        ),
        (
            format!("GRANT CREATE ON DATABASE {database} TO {creator}"),
            format!("REVOKE CREATE ON DATABASE {database} FROM {creator}"),
        ),
        (
            "GRANT CREATE ON SCHEMA defender TO incident_sync_tenant_reader".to_owned(),
            "REVOKE CREATE ON SCHEMA defender FROM incident_sync_tenant_reader".to_owned(),
        ),
        (
            format!("GRANT CREATE ON SCHEMA reporting TO {team}"),
            format!("REVOKE CREATE ON SCHEMA reporting FROM {team}"),
        ),
        (
            format!("SET ROLE {boss}; GRANT CREATE ON SCHEMA public TO {creator}; RESET ROLE"),
            format!("REVOKE GRANT OPTION FOR CREATE ON SCHEMA public FROM {boss} CASCADE"),
        ),
        (
            format!("ALTER SCHEMA reporting OWNER TO {team}"),
            format!("REVOKE {team} FROM {creator}"),
        ),
        (
            format!("ALTER SCHEMA reporting OWNER TO {creator}"),
            "ALTER SCHEMA reporting OWNER TO incident_sync".to_owned(),
        ),
    ] {
        superuser(&world, &grant).await;
        assert_eq!(found().await, [cure.as_str()], "{grant}");
        superuser(&world, &cure).await;
        assert_eq!(found().await, Vec::<String>::new(), "{cure}");
    }
}
