//! `grant-reader`: the role sees exactly what was granted, whatever was granted before, whatever role it sets, and whatever
//! happens to its name.

use incident_sync::store::Store;
use incident_sync::store::readers::{GrantError, ReaderAccess};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use super::database_owner::{owned_by_a_user, run};
use crate::support::roles::{log_in, refused, role, rows, superuser, texts};
use crate::support::world::{World, id, spec};

const WHOSE: &str = "SELECT DISTINCT tenant_name FROM reporting.incidents ORDER BY 1";

fn scoped(tenant: u128) -> ReaderAccess {
    ReaderAccess::Tenants(vec![id(tenant)])
}

/// Two tenants with incidents.
async fn world_of_two() -> World {
    let world = World::with(vec![spec(1, 3), spec(2, 3)]).await;
    world.successful_run().await;
    world
}

/// The same with a reader of each, called one and two.
async fn world_with_readers() -> (World, String, String) {
    let world = world_of_two().await;
    for (name, tenant) in [("one", 1), ("two", 2)] {
        world.store.grant_reader(&role(&world, name), &scoped(tenant)).await.unwrap();
    }
    let (one, two) = (role(&world, "one"), role(&world, "two"));
    (world, one, two)
}

async fn whose(connection: &mut PgConnection) -> Vec<String> {
    texts(connection, WHOSE).await
}

async fn is_by_grantor(connection: &mut PgConnection) -> bool {
    let version = texts(connection, "SELECT current_setting('server_version_num')").await.remove(0);
    version.parse::<u32>().unwrap() >= 160_000
}

fn refusal(granted: Result<bool, GrantError>) -> String {
    let error = granted.unwrap_err();
    assert!(matches!(error, GrantError::Refused { .. }), "{error}");
    error.to_string()
}

/// The statement that a refusal ends with.
fn cure(refusal: &str) -> &str {
    refusal.split("Let a superuser run: ").nth(1).unwrap_or_else(|| panic!("no cure: {refusal}"))
}

/// A world of a user without superuser who may make readers, and the superuser's store beside it.
async fn world_of_two_grantors() -> (World, PgConnectOptions, Store) {
    let (world, owner) = owned_by_a_user().await;
    world.successful_run().await;
    let admin = world.database.clone().username("incident_sync");
    let groups = "incident_sync_reader, incident_sync_tenant_reader";
    run(
        &admin,
        &format!("ALTER ROLE {owner} CREATEROLE; GRANT {groups} TO {owner} WITH ADMIN OPTION"),
    )
    .await;
    let store = Store::open(&admin, 2, "superuser".to_owned(), false).await.unwrap();
    (world, admin, store)
}

#[tokio::test]
async fn owner_narrows_reader_widened_by_superuser() {
    let (world, admin, superusers) = world_of_two_grantors().await;
    let name = role(&world, "widened");
    superusers.grant_reader(&name, &ReaderAccess::All).await.unwrap();
    let mut connection = log_in(&world.database, &name).await;
    assert_eq!(whose(&mut connection).await.len(), 2);
    match world.store.grant_reader(&name, &scoped(1)).await {
        Ok(_) => {}
        // Since 16 only a superuser ends what a superuser granted.
        Err(GrantError::MayNotChangeRoles { statements }) => {
            assert_eq!(whose(&mut connection).await.len(), 2, "a failed command changes nothing");
            assert!(statements.contains(" GRANTED BY incident_sync"), "{statements}");
            run(&admin, &statements).await;
            world.store.grant_reader(&name, &scoped(1)).await.unwrap();
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(whose(&mut connection).await, ["tenant-1"]);
}

#[tokio::test]
async fn superuser_narrows_reader_widened_by_owner() {
    let (world, admin, superusers) = world_of_two_grantors().await;
    let name = role(&world, "widened");
    world.store.grant_reader(&name, &ReaderAccess::All).await.unwrap();
    // A second membership, by another grantor: both must end.
    run(&admin, &format!("GRANT incident_sync_reader TO {name}")).await;
    superusers.grant_reader(&name, &scoped(1)).await.unwrap();
    let mut connection = log_in(&world.database, &name).await;
    assert_eq!(whose(&mut connection).await, ["tenant-1"]);
    assert_eq!(refused(&mut connection, "SET ROLE incident_sync_reader").await, "42501");
    // And back.
    superusers.grant_reader(&name, &ReaderAccess::All).await.unwrap();
    assert_eq!(whose(&mut connection).await.len(), 2);
}

#[tokio::test]
async fn passed_on_membership_is_refused_with_cure() {
    let world = world_of_two().await;
    let (name, other) = (role(&world, "passes_on"), role(&world, "other"));
    world.store.grant_reader(&name, &ReaderAccess::All).await.unwrap();
    superuser(
        &world,
        &format!("CREATE ROLE {other}; GRANT incident_sync_reader TO {name} WITH ADMIN OPTION"),
    )
    .await;
    let mut connection = log_in(&world.database, &name).await;
    rows(&mut connection, "SET default_transaction_read_only = off").await.unwrap();
    rows(&mut connection, &format!("GRANT incident_sync_reader TO {other}")).await.unwrap();
    let granted = world.store.grant_reader(&name, &scoped(1)).await;
    if is_by_grantor(&mut connection).await {
        let Err(GrantError::PassedOn { statements, .. }) = granted else { panic!("{granted:?}") };
        assert_eq!(whose(&mut connection).await.len(), 2, "a failed command changes nothing");
        superuser(&world, &statements).await;
        world.store.grant_reader(&name, &scoped(1)).await.unwrap();
    } else {
        granted.unwrap();
    }
    assert_eq!(whose(&mut connection).await, ["tenant-1"]);
}

#[tokio::test]
async fn noinherit_role_is_granted_only_if_effective() {
    let world = world_of_two().await;
    let name = role(&world, "noinherit");
    superuser(&world, &format!("CREATE ROLE {name} LOGIN NOINHERIT")).await;
    let mut admin = world.pool().acquire().await.unwrap();
    let granted = world.store.grant_reader(&name, &scoped(1)).await;
    if is_by_grantor(&mut admin).await {
        assert!(!granted.unwrap());
    } else {
        let message = refusal(granted);
        let held = format!(
            "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = '{name}'::regrole"
        );
        assert!(texts(&mut admin, &held).await.is_empty(), "a failed command changes nothing");
        superuser(&world, cure(&message)).await;
        world.store.grant_reader(&name, &scoped(1)).await.unwrap();
    }
    assert_eq!(whose(&mut log_in(&world.database, &name).await).await, ["tenant-1"]);
}

#[tokio::test]
async fn set_role_shows_tenants_of_that_role_only() {
    let (world, one, two) = world_with_readers().await;
    let name = role(&world, "tool");
    let mut sessions = Vec::new();
    for (suffix, made) in
        [("inherits", ""), ("not", "NOINHERIT"), ("mixed", "IN ROLE incident_sync_reader")]
    {
        let login = format!("{name}_{suffix}");
        superuser(
            &world,
            &format!("CREATE ROLE {login} LOGIN {made}; GRANT {one}, {two} TO {login}"),
        )
        .await;
        sessions.push(log_in(&world.database, &login).await);
    }
    let both = ["tenant-1", "tenant-2"];
    assert_eq!(whose(&mut sessions[0]).await, both);
    assert_eq!(refused(&mut sessions[1], WHOSE).await, "42501");
    assert_eq!(whose(&mut sessions[2]).await, both);
    sessions.push(PgConnection::connect_with(&world.database).await.unwrap());
    for session in &mut sessions {
        for (reader, seen) in [(&one, "tenant-1"), (&two, "tenant-2"), (&one, "tenant-1")] {
            rows(session, &format!("SET ROLE {reader}")).await.unwrap();
            assert_eq!(whose(session).await, [seen]);
            rows(session, &format!("SELECT set_config('role', '{reader}', false)")).await.unwrap();
            assert_eq!(whose(session).await, [seen]);
        }
        rows(session, "SET ROLE incident_sync_tenant_reader").await.unwrap();
        assert!(whose(session).await.is_empty(), "a group has no tenants of its members");
    }
    let superusers = sessions.last_mut().unwrap();
    rows(superusers, &format!("RESET ROLE; SET ROLE {two}; SET SESSION AUTHORIZATION {one}"))
        .await
        .unwrap();
    assert_eq!(whose(superusers).await, ["tenant-1"]);

    // A function with its owner's rights shows what the caller acts as.
    let define = format!(
        "CREATE FUNCTION public.whose() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS $$ {WHOSE} $$;
         ALTER FUNCTION public.whose() OWNER TO {two}"
    );
    superuser(&world, &define).await;
    rows(&mut sessions[0], &format!("SET ROLE {one}")).await.unwrap();
    assert_eq!(texts(&mut sessions[0], "SELECT public.whose()").await, ["tenant-1"]);
}

#[tokio::test]
async fn set_role_holds_in_parallel_workers() {
    let (world, one, two) = world_with_readers().await;
    let login = role(&world, "tool");
    let define = format!(
        "CREATE ROLE {login} LOGIN; GRANT {one}, {two} TO {login};
         CREATE FUNCTION public.seen() RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$ BEGIN
            RETURN pg_backend_pid() || ' ' || (SELECT string_agg(DISTINCT tenant_name, ',') FROM reporting.incidents); END $$;
         CREATE TABLE public.numbers AS SELECT generate_series(1, 10) AS number; GRANT SELECT ON public.numbers TO PUBLIC;"
    );
    superuser(&world, &define).await;
    let mut session = log_in(&world.database, &login).await;
    let forced = if is_by_grantor(&mut session).await {
        "debug_parallel_query"
    } else {
        "force_parallel_mode"
    };
    rows(&mut session, &format!("SET {forced} = on; SET ROLE {one}")).await.unwrap();
    let leader = texts(&mut session, "SELECT pg_backend_pid()::text").await.remove(0);
    loop {
        let seen =
            texts(&mut session, "SELECT public.seen() FROM public.numbers LIMIT 1").await.remove(0);
        let (process, tenants) = seen.split_once(' ').unwrap();
        assert_eq!(tenants, "tenant-1");
        // All workers may be at work for other tests.
        if process != leader {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn set_role_of_renamed_role_shows_nothing() {
    let (world, one, two) = world_with_readers().await;
    let login = role(&world, "tool");
    superuser(&world, &format!("CREATE ROLE {login} LOGIN; GRANT {one}, {two} TO {login}")).await;
    let mut session = log_in(&world.database, &login).await;
    rows(&mut session, &format!("SET ROLE {one}")).await.unwrap();
    superuser(&world, &format!("ALTER ROLE {one} RENAME TO {one}_old")).await;
    assert!(whose(&mut session).await.is_empty());
    superuser(&world, &format!("ALTER ROLE {two} RENAME TO {one}")).await;
    assert!(whose(&mut session).await.is_empty(), "the name is another role's now");
    superuser(&world, &format!("DROP OWNED BY {one}_old; DROP ROLE {one}_old")).await;
    assert_eq!(refused(&mut session, WHOSE).await, "42501");
}

#[tokio::test]
async fn grant_does_not_outlive_its_role() {
    let (world, one, two) = world_with_readers().await;
    let made = format!("CREATE ROLE {one} LOGIN; GRANT incident_sync_tenant_reader TO {one}");
    superuser(&world, &format!("DROP OWNED BY {one}; DROP ROLE {one}; {made}")).await;
    let mut successor = log_in(&world.database, &one).await;
    assert!(whose(&mut successor).await.is_empty());
    let dead =
        async || world.store.inspect().await.unwrap().schema.unwrap().unwrap().dead_grants.unwrap();
    assert_eq!(dead().await, [one.as_str()]);
    world.store.grant_reader(&one, &scoped(1)).await.unwrap();
    assert_eq!(whose(&mut successor).await, ["tenant-1"]);
    assert!(dead().await.is_empty());

    // Renamed into each other's names: neither gets the other's tenants.
    let (old, new) = (format!("{one}_old"), format!("{two}_new"));
    let swap = format!(
        "ALTER ROLE {one} RENAME TO {old}; ALTER ROLE {two} RENAME TO {one}; ALTER ROLE {old} RENAME TO {two}"
    );
    superuser(&world, &swap).await;
    for name in [&one, &two] {
        assert!(whose(&mut log_in(&world.database, name).await).await.is_empty(), "{name}");
    }
    assert_eq!(dead().await, [one.as_str(), two.as_str()]);
    // Who had the name `one`, tenant 1, and is now to see tenant 2 only, does so under every later name.
    world.store.grant_reader(&two, &scoped(2)).await.unwrap();
    superuser(
        &world,
        &format!("ALTER ROLE {one} RENAME TO {new}; ALTER ROLE {two} RENAME TO {one}"),
    )
    .await;
    assert!(whose(&mut log_in(&world.database, &one).await).await.is_empty());
}

/// As after a restore into a server whose roles have other oids: the grant's own role has another one there, and another
/// role may have the grant's.
#[tokio::test]
async fn restored_grant_never_counts_for_another_role() {
    let (world, one, two) = world_with_readers().await;
    let other = role(&world, "other");
    let move_oids = format!(
        "CREATE ROLE {other} LOGIN IN ROLE incident_sync_tenant_reader;
         UPDATE defender.reader_tenants SET reader_oid = '{other}'::regrole WHERE reader = '{one}';
         UPDATE defender.reader_tenants SET reader_oid = '{one}'::regrole WHERE reader = '{two}'"
    );
    superuser(&world, &move_oids).await;
    for name in [&one, &two, &other] {
        assert!(whose(&mut log_in(&world.database, name).await).await.is_empty(), "{name}");
    }
    world.store.grant_reader(&two, &scoped(2)).await.unwrap();
    world.store.grant_reader(&one, &scoped(1)).await.unwrap();
    for (name, seen) in [(&one, "tenant-1"), (&two, "tenant-2")] {
        assert_eq!(whose(&mut log_in(&world.database, name).await).await, [seen]);
    }
}

#[tokio::test]
async fn member_of_predefined_role_is_refused_as_reader() {
    let world = World::of(0).await;
    let mut admin = world.pool().acquire().await.unwrap();
    let all = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'pg\\_%' AND rolname <> 'pg_database_owner' ORDER BY 1";
    let all = texts(&mut admin, all).await;
    assert!(all.len() > 10, "{all:?}");
    for held in all {
        let name = role(&world, &format!("in_{held}"));
        superuser(&world, &format!("CREATE ROLE {name} LOGIN IN ROLE {held}")).await;
        let granted = world.store.grant_reader(&name, &scoped(1)).await;
        if held == "pg_read_all_settings" {
            granted.unwrap();
        } else {
            assert!(refusal(granted).contains(&format!("a member of {held}")), "{held}");
        }
    }
}

#[tokio::test]
async fn keyword_is_refused_as_reader_name() {
    let world = World::of(0).await;
    let mut admin = world.pool().acquire().await.unwrap();
    let words = "SELECT word FROM pg_get_keywords() WHERE catcode <> 'U' ORDER BY 1";
    let words = texts(&mut admin, words).await;
    for word in ["select", "user", "current_user", "session_user", "between", "authorization"] {
        assert!(words.iter().any(|known| known == word), "{word}");
        let message = refusal(world.store.grant_reader(word, &ReaderAccess::All).await);
        assert!(message.contains("keyword"), "{message}");
    }
    let made = "SELECT rolname::text FROM pg_roles JOIN pg_get_keywords() ON word = rolname";
    assert!(texts(&mut admin, made).await.is_empty());
}

#[tokio::test]
async fn reader_with_create_is_refused_with_the_cure() {
    let world = World::of(0).await;
    let (name, group) = (role(&world, "creates"), role(&world, "group"));
    let database = world.database.get_database().unwrap();
    let (public, here) = ("SCHEMA public".to_owned(), format!("DATABASE {database}"));
    for (object, grantee) in [(&public, "PUBLIC"), (&here, "PUBLIC")] {
        superuser(&world, &format!("GRANT CREATE ON {object} TO {grantee}")).await;
        for sight in [ReaderAccess::All, scoped(1)] {
            let message = refusal(world.store.grant_reader(&name, &sight).await);
            assert_eq!(cure(&message), format!("REVOKE CREATE ON {object} FROM {grantee}"));
        }
        superuser(&world, cure(&refusal(world.store.grant_reader(&name, &scoped(1)).await))).await;
    }
    assert!(world.store.grant_reader(&name, &scoped(1)).await.unwrap(), "nothing was made before");
    superuser(&world, &format!("CREATE ROLE {group}; GRANT {group} TO {name}")).await;
    for (object, grantee) in [(&public, &name), (&here, &name), (&public, &group), (&here, &group)]
    {
        superuser(&world, &format!("GRANT CREATE ON {object} TO {grantee}")).await;
        let message = refusal(world.store.grant_reader(&name, &scoped(1)).await);
        assert_eq!(cure(&message), format!("REVOKE CREATE ON {object} FROM {grantee}"));
        superuser(&world, cure(&message)).await;
    }
    superuser(&world, &format!("ALTER SCHEMA public OWNER TO {name}")).await;
    superuser(&world, cure(&refusal(world.store.grant_reader(&name, &scoped(1)).await))).await;
    world.store.grant_reader(&name, &scoped(1)).await.unwrap();
}

#[tokio::test]
async fn new_reader_gets_limit_and_existing_keeps_own() {
    let world = World::of(0).await;
    let name = role(&world, "limited");
    let limit = format!("SELECT rolconnlimit::text FROM pg_roles WHERE rolname = '{name}'");
    let mut admin = world.pool().acquire().await.unwrap();
    world.store.grant_reader(&name, &scoped(1)).await.unwrap();
    assert_eq!(texts(&mut admin, &limit).await, ["10"]);
    let mut sessions = Vec::new();
    for _ in 0..10 {
        sessions.push(log_in(&world.database, &name).await);
    }
    let eleventh =
        PgConnection::connect_with(&world.database.clone().username(&name)).await.unwrap_err();
    assert_eq!(eleventh.as_database_error().unwrap().code().unwrap(), "53300");
    for chosen in ["3", "-1"] {
        superuser(&world, &format!("ALTER ROLE {name} CONNECTION LIMIT {chosen}")).await;
        world.store.grant_reader(&name, &ReaderAccess::All).await.unwrap();
        assert_eq!(texts(&mut admin, &limit).await, [chosen]);
    }
}

/// The page's own statements, with names of this test for the roles.
#[tokio::test]
async fn shared_login_recipe_shows_each_viewer_own_tenant() {
    let (world, one, two) = world_with_readers().await;
    let tool = role(&world, "reporting_tool");
    let page = include_str!("../../docs/data/reader-recipes.md");
    let page = page
        .replace("contoso_r", &one)
        .replace("fabrikam_r", &two)
        .replace("reporting_tool", &tool);
    let mut blocks = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    for _ in ["login", "settings"] {
        superuser(&world, blocks.next().unwrap()).await;
    }
    let mut session = log_in(&world.database, &tool).await;
    assert_eq!(refused(&mut session, WHOSE).await, "42501", "without SET ROLE it sees nothing");
    let check = blocks.next().unwrap().trim();
    for (reader, seen) in [(&one, "tenant-1"), (&two, "tenant-2")] {
        assert_eq!(texts(&mut session, &check.replace(&one, reader)).await, [seen]);
        let local = format!("BEGIN; SET LOCAL ROLE {reader}; {WHOSE}; COMMIT");
        assert_eq!(texts(&mut session, &local).await, [seen]);
        assert_eq!(refused(&mut session, WHOSE).await, "42501");
    }
    assert_eq!(refused(&mut session, "CREATE TABLE pg_temp.x ()").await, "25006");
    // Why viewers of such a login may write no SQL.
    let change = format!("SET ROLE {one}; SELECT set_config('role', '{two}', false)");
    rows(&mut session, &change).await.unwrap();
    assert_eq!(whose(&mut session).await, ["tenant-2"]);
    superuser(&world, blocks.next().unwrap()).await;
    assert!(blocks.next().is_none());
}
