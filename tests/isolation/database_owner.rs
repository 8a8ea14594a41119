//! Databases whose migrating user is no superuser, and daemons that do not own the schema.

use std::process::{Command, Output};

use incident_sync::postgres::{Embedded, EmbeddedSettings, Hold};
use incident_sync::store::readers::{GrantError, ReaderAccess};
use incident_sync::store::tenants::RemovedTenants;
use incident_sync::store::{Store, apply_migrations};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::support::folder::open_folder;
use crate::support::postgres::{PREFIX, program, server_programs};
use crate::support::roles::{TABLES, log_in, refused, role, rows, superuser, texts};
use crate::support::world::{World, id, spec};

pub(crate) async fn run(options: &PgConnectOptions, statements: &str) {
    // A database cannot be made in a transaction, and several statements in one query are one.
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    for statement in statements.split("; ") {
        rows(&mut connection, statement).await.unwrap();
    }
    connection.close().await.unwrap();
}

/// The statements in the message for a superuser.
fn named_statements(message: &str) -> String {
    message.split("run once: ").nth(1).unwrap_or_else(|| panic!("{message}")).to_owned()
}

#[tokio::test]
async fn database_owner_migrates_after_superuser_statements() {
    let folder = open_folder(PREFIX);
    let settings =
        EmbeddedSettings { dir: folder.path().join("pg"), postgres_bin: server_programs() };
    let server = Embedded::start(&settings, Hold::Daemon).await.unwrap();
    let admin = server.connect_options();
    let mut proposed = Vec::new();
    for owner in ["first_owner", "second_owner"] {
        run(&admin, &format!("CREATE ROLE {owner} LOGIN; CREATE DATABASE {owner} OWNER {owner}"))
            .await;
        let options = admin.clone().username(owner).database(owner);
        let message = apply_migrations(&options).await.unwrap_err().to_string();
        assert!(message.contains(&format!("{owner} may not create the roles")), "{message}");
        let statements = named_statements(&message);
        run(&admin, &statements).await;
        apply_migrations(&options).await.unwrap();
        drop(Store::open(&options, 1, "owner".to_owned(), true).await.unwrap());
        proposed.push(statements);
    }
    assert_eq!(proposed[0].matches("CREATE ROLE").count(), 4, "{proposed:?}");
    // The roles are the server's, and the first database has them made.
    assert!(
        proposed[1].starts_with("GRANT ") && proposed[1].ends_with("TO second_owner"),
        "{proposed:?}"
    );
    server.stop().await;
}

/// A world whose schema and connections belong to a user who owns the database and nothing else.
pub(crate) async fn owned_by_a_user() -> (World, String) {
    let mut world = World::with(vec![spec(1, 30), spec(2, 20)]).await;
    let owner = role(&world, "owner");
    let database = format!("{owner}_db");
    let groups = "incident_sync_writer, incident_sync_dispatcher, incident_sync_reader";
    let admin = world.database.clone();
    run(
        &admin,
        &format!("CREATE ROLE {owner} LOGIN; GRANT {groups} TO {owner}; CREATE DATABASE {database} OWNER {owner}"),
    )
    .await;
    world.database = admin.username(&owner).database(&database);
    apply_migrations(&world.database).await.unwrap();
    serve(&mut world).await;
    (world, owner)
}

/// From here on the world's engine works as the user of `world.database`.
async fn serve(world: &mut World) {
    let (store, engine) = world.other_instance("another user", 4).await;
    (world.store, world.engine) = (store, engine);
    world.store.sync_tenants(world.tenants(), RemovedTenants::AllOthers).await.unwrap();
}

#[tokio::test]
async fn sync_and_grant_reader_work_without_superuser() {
    let (world, owner) = owned_by_a_user().await;
    world.successful_run().await;
    world.assert_settled().await;
    let admin = PgConnectOptions::clone(&world.database).username("incident_sync");

    let name = role(&world, "reader");
    let sight = ReaderAccess::Tenants(vec![id(1)]);
    let statements = match world.store.grant_reader(&name, &sight).await {
        Err(GrantError::MayNotChangeRoles { statements }) => statements,
        other => panic!("{other:?}"),
    };
    run(&admin, &statements).await;
    assert!(!world.store.grant_reader(&name, &sight).await.unwrap());
    let mut reader = log_in(&world.database, &name).await;
    let whose = "SELECT DISTINCT tenant_id::text FROM defender.incidents";
    assert_eq!(texts(&mut reader, whose).await, [id(1).to_string()]);
    assert_eq!(refused(&mut reader, "SELECT * FROM defender.reader_tenants").await, "42501");
    // With CREATEROLE it needs no superuser. Since 16 that right applies to each role that the user created.
    let group = "GRANT incident_sync_tenant_reader TO";
    run(&admin, &format!("ALTER ROLE {owner} CREATEROLE; {group} {owner} WITH ADMIN OPTION")).await;
    assert!(world.store.grant_reader(&role(&world, "second"), &sight).await.unwrap());
}

#[tokio::test]
async fn daemon_works_as_member_of_three_roles() {
    let mut world = World::with(vec![spec(1, 30), spec(2, 20)]).await;
    let daemon = role(&world, "daemon");
    let groups = "incident_sync_writer, incident_sync_dispatcher, incident_sync_reader";
    superuser(&world, &format!("CREATE ROLE {daemon} LOGIN; GRANT {groups} TO {daemon}")).await;
    world.database = world.database.clone().username(&daemon);
    serve(&mut world).await;
    world.successful_run().await;
    world.assert_settled().await;
    assert_eq!(world.store.pending_migrations().await.unwrap(), 0);
    assert_eq!(world.store.tenant_status().await.unwrap().len(), 2);
    // Commands that migrate find nothing to do.
    drop(Store::open(&world.database, 1, "sync".to_owned(), true).await.unwrap());
    let refused = world
        .store
        .grant_reader(&role(&world, "reader"), &ReaderAccess::Tenants(vec![id(1)]))
        .await
        .unwrap_err();
    assert!(matches!(refused, GrantError::MayNotChangeTenants), "{refused}");
}

fn tool(name: &str, database: &PgConnectOptions, arguments: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    command
        .arg("--host")
        .arg(database.get_socket().unwrap())
        .args(["--username", database.get_username()]);
    command.args(["--dbname", database.get_database().unwrap()]).args(arguments).output().unwrap()
}

#[tokio::test]
async fn dump_by_owner_is_complete_or_fails() {
    let (world, owner) = owned_by_a_user().await;
    world.successful_run().await;
    let admin = PgConnectOptions::clone(&world.database).username("incident_sync");
    let grants = format!(
        "INSERT INTO defender.reader_tenants VALUES ('{owner}', '{}', '{owner}'::regrole)",
        id(1)
    );
    rows(&mut PgConnection::connect_with(&admin).await.unwrap(), &grants).await.unwrap();
    let folder = open_folder(PREFIX);
    let file = folder.path().join("dump");
    let file = file.to_str().unwrap();
    let dump = ["--format=custom", "--file", file];
    let refused = tool("pg_dump", &world.database, &dump);
    assert!(!refused.status.success(), "row-level security would leave out rows without a word");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("row-level security"), "{refused:?}");
    let done = tool("pg_dump", &world.database, &[&dump[..], &["--enable-row-security"]].concat());
    assert!(done.status.success(), "{done:?}");

    let restored = format!("{}_restored", world.database.get_database().unwrap());
    run(&admin, &format!("CREATE DATABASE {restored} OWNER {owner}")).await;
    let restored = world.database.clone().database(&restored);
    let done = tool("pg_restore", &restored, &["--exit-on-error", file]);
    assert!(done.status.success(), "{done:?}");
    let mut both = Vec::new();
    for database in [&world.database, &restored] {
        let mut connection =
            PgConnection::connect_with(&database.clone().username("incident_sync")).await.unwrap();
        let mut tables = Vec::new();
        for table in TABLES.into_iter().chain(["reader_tenants", "schema_info"]) {
            let content = format!(
                "SELECT count(*) || md5(string_agg(t::text, ',' ORDER BY t::text)) FROM defender.{table} t"
            );
            tables.push(
                texts(&mut connection, &format!("SELECT coalesce(({content}), '')"))
                    .await
                    .remove(0),
            );
        }
        both.push(tables);
    }
    assert_eq!(both[0], both[1]);
    let mut world = world;
    world.database = restored;
    serve(&mut world).await;
    world.assert_settled().await;
}
