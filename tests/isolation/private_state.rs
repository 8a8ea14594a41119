//! What readers must not see: sizes of other tenants, who parked a tenant and why, internal labels, problems of the partner.
//! And what one reader cannot do unnoticed: hold up runs or the change feed.

use std::collections::BTreeMap;
use std::sync::Arc;

use incident_sync::entra::Tenant;
use incident_sync::store::Store;
use incident_sync::store::feed::Feed;
use incident_sync::store::tenants::RemovedTenants;
use incident_sync::tenant::TenantId;
use simulator::{Behaviour, Endpoint, ScriptedReply, TenantSpec};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::canary;
use crate::support::fault_proxy::Fault;
use crate::support::fault_proxy::proxied;
use crate::support::poll::eventually;
use crate::support::roles::{crowded, log_in, reader, role, rows, superuser, texts};
use crate::support::server::OwnServer;
use crate::support::world::world_on;
use crate::support::world::{World, id, spec};

/// Every relation with a tenant that the role may ask about.
const RELATIONS: &str = "SELECT c.oid::regclass::text FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
    WHERE relnamespace IN ('defender'::regnamespace, 'reporting'::regnamespace) AND relkind IN ('r', 'p', 'v')
    AND has_column_privilege(c.oid, a.attnum, 'SELECT') ORDER BY 1";

/// What the planner expects of each condition on a tenant, without the tenant's id.
async fn plans(connection: &mut PgConnection, relation: &str, tenant: Uuid) -> String {
    let mut plans = String::new();
    for condition in [
        "= '?'",
        "<> '?'",
        "> '?'",
        "IN ('?', '00000000-0000-0000-0000-000000000001')",
        "= ALL (ARRAY['?'::uuid])",
    ] {
        let asked = format!(
            "EXPLAIN (VERBOSE) SELECT tenant_id FROM {relation} WHERE tenant_id {condition}"
        );
        let plan = texts(connection, &asked.replace('?', &tenant.to_string())).await;
        plans += &format!("{condition}: {}\n", plan.join("\n"));
    }
    plans.replace(&tenant.to_string(), "?")
}

#[tokio::test]
async fn plans_are_equal_for_foreign_and_unknown_tenants() {
    let world = crowded().await;
    superuser(&world, "ANALYZE").await;
    let mut reader = reader(&world, "guesser", &[1]).await;
    let relations = texts(&mut reader, RELATIONS).await;
    assert!(relations.len() > 30, "{relations:?}");
    for relation in relations {
        let unknown = plans(&mut reader, &relation, id(9)).await;
        assert!(unknown.contains("rows="), "{unknown}");
        for foreign in [2, 3] {
            assert_eq!(plans(&mut reader, &relation, id(foreign)).await, unknown, "{relation}");
        }
    }
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    for (found, query) in [
        ("a tenant_id with statistics", "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
            WHERE relnamespace = 'defender'::regnamespace AND relkind IN ('r', 'p') AND attname = 'tenant_id'
            AND coalesce(attstattarget, -1) <> 0"),
        ("statistics kept from before", "SELECT tablename || '.' || attname FROM pg_stats WHERE schemaname = 'defender'
            AND attname = 'tenant_id'"),
        ("extended statistics", "SELECT statistics_name::text FROM pg_stats_ext WHERE schemaname = 'defender'"),
        ("an index on an expression, which has statistics of its own", "SELECT indexrelid::regclass::text FROM pg_index
            JOIN pg_class ON pg_class.oid = indrelid WHERE relnamespace = 'defender'::regnamespace AND indexprs IS NOT NULL"),
    ] {
        assert_eq!(texts(&mut admin, query).await, Vec::<String>::new(), "{found}");
    }
}

#[tokio::test]
async fn runs_are_recorded_while_notify_queue_is_full() {
    let mut world = World::with((1..=4).map(|number| spec(number, 3)).collect()).await;
    let (proxy, options) = proxied(&world.database).await;
    world.store = Store::open(&options, 4, "notifying".to_owned(), false).await.unwrap();
    world.notify();
    proxy.stage(Fault::RefuseNotify);
    world.successful_run().await;
    assert!(proxy.struck() > 0, "a NOTIFY was refused");
    assert_eq!(
        world.number("SELECT count(*) FROM defender.sync_runs WHERE outcome = 'ok'").await,
        4
    );
    let fresh = "SELECT count(*) FROM reporting.tenant_freshness WHERE data_as_of IS NOT NULL AND last_outcome = 'ok'";
    assert_eq!(world.number(fresh).await, 4);
    let (refused, before) = (proxy.struck(), world.state(id(1), "last_success_at").await);
    for tenant in 1..=4 {
        world.service().create(id(tenant));
    }
    world.later();
    world.successful_run().await;
    assert!(proxy.struck() > refused, "NOTIFY is tried again");
    assert_ne!(world.state(id(1), "last_success_at").await, before, "the data grows no older");
    let warnings = canary::warnings("NOTIFY incident_sync_changes failed");
    assert_eq!(warnings.len(), 1, "one cause is one warning: {warnings:#?}");
    assert!(
        warnings[0].contains("pg_notification_queue_usage()") && warnings[0].contains("54000"),
        "{}",
        warnings[0]
    );
}

/// The process of a session.
async fn pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await.unwrap()
}

/// A change that is stored at this moment, of tenant 1.
async fn change(world: &World) {
    let insert = "INSERT INTO defender.incident_changes (tenant_id, incident_id, field, new_value) VALUES ($1, 1, 'status', 'x')";
    sqlx::query(insert).bind(id(1)).execute(world.pool()).await.unwrap();
}

async fn until(what: &str, store: &Store, is_so: impl Fn(&Feed) -> bool) -> Feed {
    eventually(what, async || Some(store.feed().await.unwrap()).filter(&is_so)).await
}

#[tokio::test]
async fn reader_holding_the_change_feed_is_named() {
    let world = World::of(0).await;
    let mut reader = reader(&world, "holder", &[1]).await;
    rows(&mut reader, "SET application_name = 'report'; BEGIN; SELECT pg_current_xact_id()")
        .await
        .unwrap();
    let (pid, name) = (pid(&mut reader).await, role(&world, "holder"));
    change(&world).await;
    let feed = world.store.feed().await.unwrap();
    let holder = feed.holders.iter().find(|holder| holder.pid == Some(pid)).unwrap();
    assert_eq!(
        (holder.role.as_deref(), holder.application.as_deref(), holder.is_ours),
        (Some(name.as_str()), Some("report"), false)
    );
    assert_eq!(holder.database.as_deref(), world.database.get_database());
    let age = holder.age_seconds.unwrap();
    assert!(age > 0.0 && feed.delay_seconds() >= age, "{feed:?}");
    assert!(feed.hidden_seconds > 0.0, "the change is not shown: {feed:?}");
    // It calls itself as we do, which helps only those who log in as we do.
    rows(&mut reader, "SET application_name = 'incident-sync'").await.unwrap();
    let feed = world.store.feed().await.unwrap();
    assert!(
        feed.holders.iter().any(|holder| holder.pid == Some(pid) && !holder.is_ours),
        "{feed:?}"
    );

    superuser(&world, &format!("SELECT pg_terminate_backend({pid})")).await;
    until("the feed moves again", &world.store, |feed| {
        feed.holders.iter().all(|holder| holder.pid != Some(pid)) && feed.hidden_seconds == 0.0
    })
    .await;
}

#[tokio::test]
async fn feed_holder_is_named_without_right_to_ages() {
    let mut world = World::of(0).await;
    let daemon = role(&world, "daemon");
    let groups = "incident_sync_writer, incident_sync_dispatcher, incident_sync_reader";
    superuser(&world, &format!("CREATE ROLE {daemon} LOGIN; GRANT {groups} TO {daemon}")).await;
    let mut reader = reader(&world, "unseen", &[1]).await;
    rows(&mut reader, "BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let (pid, name) = (pid(&mut reader).await, role(&world, "unseen"));
    change(&world).await;
    world.database = world.database.clone().username(&daemon);
    let (store, _) = world.other_instance("daemon", 2).await;
    let feed = store.feed().await.unwrap();
    let holder = feed.holders.iter().find(|holder| holder.pid == Some(pid)).unwrap();
    assert_eq!((holder.role.as_deref(), holder.age_seconds), (Some(name.as_str()), None));
    assert!(feed.delay_seconds() > 0.0 && feed.delay_seconds() == feed.hidden_seconds, "{feed:?}");
}

#[tokio::test]
async fn prepared_transaction_holding_feed_is_named() {
    let server = OwnServer::with(&["max_prepared_transactions=2"]).await;
    let world = world_on(server.options(), &[0]).await;
    let mut reader = reader(&world, "preparer", &[1]).await;
    rows(&mut reader, "SET default_transaction_read_only = off").await.unwrap();
    rows(&mut reader, "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'it''s'")
        .await
        .unwrap();
    reader.close().await.unwrap();
    let feed = until("it is prepared", &world.store, |feed| {
        feed.holders.iter().any(|holder| holder.gid.is_some())
    })
    .await;
    let holder = feed.holders.iter().find(|holder| holder.gid.is_some()).unwrap();
    assert_eq!((holder.gid.as_deref(), holder.pid), (Some("it's"), None));
    assert_eq!(holder.role, Some(role(&world, "preparer")));
    assert!(holder.age_seconds.is_some());
    superuser(&world, "ROLLBACK PREPARED 'it''s'").await;
    until("it is ended", &world.store, |feed| {
        feed.holders.iter().all(|holder| holder.gid.is_none())
    })
    .await;
}

#[tokio::test]
async fn readers_without_limits_are_listed() {
    let world = World::of(0).await;
    reader(&world, "limits", &[1]).await;
    let name = role(&world, "limits");
    let limits = async || {
        let readers = world.store.reader_limits().await.unwrap();
        let found = readers.iter().find(|reader| reader.role == name).unwrap();
        (found.has_no_connection_limit, found.has_no_temp_file_limit)
    };
    superuser(&world, &format!("ALTER ROLE {name} CONNECTION LIMIT -1")).await;
    assert_eq!(limits().await, (true, true));
    superuser(&world, &format!("ALTER ROLE {name} CONNECTION LIMIT 10")).await;
    assert_eq!(limits().await, (false, true));
    superuser(&world, &format!("ALTER ROLE {name} SET temp_file_limit = '2GB'")).await;
    assert_eq!(limits().await, (false, false));
    superuser(&world, &format!("ALTER ROLE {name} SET temp_file_limit = -1")).await;
    assert_eq!(limits().await, (false, true));
}

/// Words that an operator writes, and a problem of the partner.
const PRIVATE: [&str; 5] = [
    "unpaid-invoice-77",
    "ann-of-the-partner",
    "margin-is-low",
    "AADSTS7000215",
    "client_secret_file",
];

/// All that a role can read in tables and views, and by functions without arguments.
async fn everything(connection: &mut PgConnection) -> String {
    let selects = "SELECT format('SELECT string_agg(row(%s)::text, '' '') FROM %s', string_agg(quote_ident(attname), ', '), c.oid::regclass)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE relnamespace IN ('defender'::regnamespace, 'reporting'::regnamespace) AND relkind IN ('r', 'p', 'v')
        AND has_column_privilege(c.oid, a.attnum, 'SELECT') GROUP BY c.oid
        UNION ALL
        SELECT format('SELECT string_agg(f::text, '' '') FROM %s() f', p.oid::regproc) FROM pg_proc p
        WHERE pronamespace IN ('defender'::regnamespace, 'reporting'::regnamespace) AND pronargs = 0
        AND prorettype <> 'trigger'::regtype AND provolatile <> 'v' AND has_function_privilege(p.oid, 'EXECUTE')";
    let mut read = String::new();
    for select in texts(connection, selects).await {
        let found: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(select.as_str()))
            .fetch_one(&mut *connection)
            .await
            .unwrap_or_else(|error| panic!("{select}: {error}"));
        read += &found.unwrap_or_default();
    }
    read
}

/// One line for each tenant: what dashboards show.
async fn freshness(connection: &mut PgConnection) -> Vec<String> {
    let shown = "SELECT concat_ws(' ', tenant_name, last_outcome, error_class, who_must_act, labels::text, internal_labels::text)
        FROM reporting.tenant_freshness ORDER BY tenant_name";
    texts(connection, shown).await
}

#[tokio::test]
async fn operator_texts_are_hidden_from_readers() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let specs = vec![
        spec(1, 2),
        spec(2, 2),
        TenantSpec { behaviour: without_consent, ..spec(3, 2) },
        spec(4, 2),
    ];
    let world = World::with(specs).await;
    let labels: BTreeMap<String, String> = [("tier", "gold"), ("internal.margin", PRIVATE[2])]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let labelled =
        |tenant: &Arc<Tenant>| Arc::new(Tenant { labels: labels.clone(), ..Tenant::clone(tenant) });
    let labelled: Vec<_> = world.tenants().iter().map(labelled).collect();
    world.store.sync_tenants(&labelled, RemovedTenants::AllOthers).await.unwrap();
    world.service().script(
        id(2),
        Endpoint::Token,
        vec![ScriptedReply::entra(401, "invalid_client", 7_000_215); 9],
    );
    world.run().await;
    assert!(
        world
            .store
            .park(TenantId(id(1)), "ann-of-the-partner@host", Some(PRIVATE[0]))
            .await
            .unwrap()
    );

    let mut scoped = reader(&world, "customer", &[1, 2, 3, 4]).await;
    let read = everything(&mut scoped).await;
    for word in PRIVATE {
        assert!(!read.contains(word), "{word} is shown to a customer");
    }
    for shown in ["tier", "consent link", &id(4).to_string()] {
        assert!(read.contains(shown), "{shown} is not read at all");
    }
    assert_eq!(
        freshness(&mut scoped).await,
        [
            "tenant-1 parked operator operator {\"tier\": \"gold\"}",
            "tenant-2 parked operator operator {\"tier\": \"gold\"}",
            "tenant-3 parked consent_missing customer_admin {\"tier\": \"gold\"}",
            "tenant-4 ok {\"tier\": \"gold\"}",
        ]
    );
    let mut other = reader(&world, "neighbour", &[4]).await;
    assert!(
        !everything(&mut other).await.contains(&id(3).to_string()),
        "a function shows other tenants"
    );

    let name = role(&world, "operator");
    superuser(&world, &format!("CREATE ROLE {name} LOGIN IN ROLE incident_sync_reader")).await;
    let mut operator = log_in(&world.database, &name).await;
    let read = everything(&mut operator).await;
    for word in PRIVATE {
        assert!(read.contains(word), "{word} is hidden from operators");
    }
    let internal = format!("{{\"tier\": \"gold\"}} {{\"margin\": \"{}\"}}", PRIVATE[2]);
    assert_eq!(
        freshness(&mut operator).await,
        [
            format!("tenant-1 parked parked operator {internal}"),
            format!("tenant-2 parked credential operator {internal}"),
            format!("tenant-3 parked consent_missing customer_admin {internal}"),
            format!("tenant-4 ok {internal}"),
        ]
    );
}
