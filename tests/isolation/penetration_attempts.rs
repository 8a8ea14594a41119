//! Attacks of a penetration test that failed, kept as tests.

use std::time::Duration;

use incident_sync::http_client::Deadlines;
use incident_sync::store::readers::ReaderAccess;
use incident_sync::store::runs::Outcome;
use sqlx::{Connection, PgConnection, Row};

use crate::support::cases::{Case, api, entra, run, thief};
use crate::support::peer::{Asked, Step, TOKEN, answer, head, ok, page, token};
use crate::support::roles::{crowded, log_in, reader, refused, role, rows, superuser, texts};
use crate::support::world::{World, id, spec};

/// Rows and error of a statement as one text.
async fn answer_of(connection: &mut PgConnection, statement: &str) -> String {
    match rows(connection, statement).await {
        Ok(rows) => {
            rows.iter().map(|row| row.try_get::<String, _>(0).unwrap_or_default()).collect()
        }
        Err(error) => format!("{error:?}"),
    }
}

/// The rows of a [`crowded`] world are copies of tenant 3's and have its id in many texts; a title and a key have their own.
fn shows(answer: &str, number: u128) -> bool {
    let tenant = id(number);
    answer.contains(&format!("secret of {tenant}"))
        || answer.contains(&format!("<tenant_id>{tenant}"))
}

fn assert_only_tenant(number: u128, statement: &str, answer: &str) {
    for tenant in 1..=3 {
        assert_eq!(
            shows(answer, tenant),
            tenant == number,
            "tenant {tenant} by {statement}: {answer}"
        );
    }
}

#[tokio::test]
async fn unusual_reads_show_own_rows_only() {
    let world = crowded().await;
    let mut reader = reader(&world, "odd_ways", &[1]).await;
    for statement in [
        "SELECT title FROM defender.alerts TABLESAMPLE SYSTEM (100)",
        "SELECT title FROM defender.alerts TABLESAMPLE BERNOULLI (100) REPEATABLE (1)",
        "SELECT title FROM defender.alerts WHERE ctid = ANY (ARRAY(
            SELECT format('(%s,%s)', block, line)::tid FROM generate_series(0, 40) block, generate_series(1, 60) line))",
        "SELECT title FROM defender.alerts WHERE ctid >= '(0,0)'",
        "SELECT table_to_xml('defender.alerts', true, false, '')::text",
        "SELECT query_to_xml('SELECT title FROM defender.alerts', true, false, '')::text",
        "SELECT schema_to_xml('defender', true, false, '')::text",
        "SELECT schema_to_xml_and_xmlschema('reporting', true, false, '')::text",
        "SELECT database_to_xml(true, false, '')::text",
        "SELECT word FROM ts_stat('SELECT array_to_tsvector(ARRAY[title]) FROM defender.alerts')",
        "SELECT ts_rewrite('''x'''::tsquery, 'SELECT ''x''::tsquery, quote_literal(min(title))::tsquery
            FROM defender.alerts')::text",
        "SELECT title FROM defender.alerts FOR READ ONLY",
    ] {
        let answer = answer_of(&mut reader, statement).await;
        assert_only_tenant(1, statement, &answer);
    }
}

/// What no reader may do, beside what `ways_around.rs` tries.
const REFUSED: [&str; 44] = [
    "SELECT nextval('defender.incident_changes_number')",
    "SELECT setval('defender.incident_changes_number', 1)",
    "ALTER SEQUENCE defender.incident_changes_number RESTART",
    "SELECT lo_get({object})",
    "SELECT lo_open({object}, 131072)",
    "SELECT lo_unlink({object})",
    "SELECT lo_export({object}, '/tmp/x')",
    "CREATE EXTENSION postgres_fdw",
    "CREATE EXTENSION dblink",
    "CREATE EXTENSION file_fdw",
    "CREATE EXTENSION pg_stat_statements",
    "CREATE FOREIGN DATA WRAPPER mine",
    "CREATE PUBLICATION mine",
    "CREATE PUBLICATION mine FOR ALL TABLES",
    "CREATE SUBSCRIPTION mine CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)",
    "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "SELECT pg_create_physical_replication_slot('mine')",
    "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE c AS 'libc.so.6', 'getpid'",
    "CREATE FUNCTION pg_temp.f(internal) RETURNS int LANGUAGE internal AS 'int4in'",
    "CREATE CAST (uuid AS bytea) WITHOUT FUNCTION",
    "CREATE ACCESS METHOD mine TYPE TABLE HANDLER heap_tableam_handler",
    "CREATE DATABASE mine",
    "CREATE ROLE mine",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "ALTER DATABASE {database} SET search_path = pg_temp",
    "ALTER ROLE incident_sync_writer SET search_path = pg_temp",
    "ALTER ROLE {owner} SET search_path = pg_temp",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO PUBLIC",
    "ALTER TABLE defender.alerts OWNER TO {me}",
    "REASSIGN OWNED BY {owner} TO {me}",
    "DROP OWNED BY {owner}",
    "COMMENT ON TABLE defender.alerts IS 'mine'",
    "GRANT {me} TO {neighbour}",
    "GRANT incident_sync_tenant_reader TO {neighbour}",
    "SELECT pg_cancel_backend({pid})",
    "SELECT pg_terminate_backend({pid})",
    "SELECT pg_log_backend_memory_contexts({pid})",
    "CHECKPOINT",
    "SELECT pg_reload_conf()",
    "SELECT pg_promote()",
    "SELECT pg_switch_wal()",
    "SELECT pg_stat_reset()",
    "SET log_min_messages = 'panic'",
];

#[tokio::test]
async fn reader_is_refused_objects_settings_and_sessions() {
    let world = World::with(vec![spec(1, 0), spec(2, 0)]).await;
    let mut admin = world.pool().acquire().await.unwrap();
    let mut neighbour = reader(&world, "refused_neighbour", &[2]).await;
    rows(&mut neighbour, "SET default_transaction_read_only = off").await.unwrap();
    let object =
        texts(&mut neighbour, "SELECT lo_from_bytea(0, 'of tenant 2')::text").await.remove(0);
    let mut reader = reader(&world, "refused", &[1]).await;
    rows(&mut reader, "SET default_transaction_read_only = off").await.unwrap();
    let daemon = texts(&mut admin, "SELECT pg_backend_pid()::text").await.remove(0);
    let me = role(&world, "refused");
    let values = [
        ("{object}", &*object),
        ("{pid}", &*daemon),
        ("{me}", &*me),
        ("{neighbour}", &*role(&world, "refused_neighbour")),
        ("{owner}", world.database.get_username()),
        ("{database}", world.database.get_database().unwrap()),
    ];
    for statement in REFUSED {
        let statement = values
            .iter()
            .fold(statement.to_owned(), |statement, (name, value)| statement.replace(name, value));
        let code = refused(&mut reader, &statement).await;
        // An extension that this server lacks cannot be tried.
        let is_absent = statement.starts_with("CREATE EXTENSION")
            && ["0A000", "58P01"].contains(&code.as_str());
        assert!(code == "42501" || is_absent, "{statement}: {code}");
    }
    assert_eq!(
        texts(&mut admin, "SELECT pg_backend_pid()::text").await,
        [daemon],
        "the daemon's session lives"
    );
}

#[tokio::test]
async fn reader_passes_no_privilege_on() {
    let world = World::of(0).await;
    let mut reader = reader(&world, "passes", &[1]).await;
    rows(&mut reader, "SET default_transaction_read_only = off").await.unwrap();
    let outsider = role(&world, "outsider");
    superuser(&world, &format!("CREATE ROLE {outsider} LOGIN")).await;
    let mut admin = world.pool().acquire().await.unwrap();
    let privileges =
        "SELECT string_agg(format('%s %s', oid::regclass, relacl), ',' ORDER BY oid) FROM pg_class
        WHERE relnamespace IN ('defender'::regnamespace, 'reporting'::regnamespace)";
    let before = texts(&mut admin, privileges).await;
    // Postgres only warns where the grantor has a privilege, but no grant option.
    for statement in [
        format!("GRANT SELECT ON defender.alerts, reporting.incidents TO PUBLIC, {outsider}"),
        "GRANT ALL ON ALL TABLES IN SCHEMA defender TO PUBLIC".to_owned(),
        format!("GRANT USAGE ON SCHEMA defender, reporting TO {outsider}"),
        "REVOKE ALL ON defender.alerts FROM incident_sync_reader, incident_sync_writer".to_owned(),
        "REVOKE incident_sync_tenant_reader FROM incident_sync_tenant_reader".to_owned(),
    ] {
        let _ = rows(&mut reader, &statement).await;
        assert_eq!(texts(&mut admin, privileges).await, before, "{statement}");
    }
    let mut outsider = log_in(&world.database, &outsider).await;
    for statement in
        ["SELECT title FROM defender.alerts", "SELECT tenant_id FROM reporting.incidents"]
    {
        assert_eq!(refused(&mut outsider, statement).await, "42501");
    }
}

#[tokio::test]
async fn shared_views_show_the_caller_own_rows_only() {
    let world = crowded().await;
    let mut made = reader(&world, "shares", &[1]).await;
    let mut calls = reader(&world, "calls", &[2]).await;
    world.store.grant_reader(&role(&world, "analyst"), &ReaderAccess::All).await.unwrap();
    let mut analyst = log_in(&world.database, &role(&world, "analyst")).await;
    superuser(&world, "CREATE SCHEMA shared").await;
    superuser(&world, "GRANT USAGE ON SCHEMA shared TO PUBLIC").await;
    superuser(&world, &format!("GRANT CREATE ON SCHEMA shared TO {}", role(&world, "shares")))
        .await;
    rows(&mut made, "SET default_transaction_read_only = off").await.unwrap();
    rows(
        &mut made,
        "CREATE VIEW shared.titles AS SELECT title FROM defender.alerts;
        CREATE VIEW shared.guarded WITH (security_barrier) AS SELECT title FROM reporting.alerts;
        CREATE FUNCTION shared.titles() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER
            AS 'SELECT title FROM defender.alerts';
        CREATE FUNCTION shared.dynamic() RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER
            AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT title FROM defender.alerts'; END $$;
        GRANT SELECT ON ALL TABLES IN SCHEMA shared TO PUBLIC",
    )
    .await
    .unwrap();
    // A view of `reporting` asks with the rights of its caller, through another reader's view too.
    for (statement, is_callers) in [
        ("SELECT title FROM shared.titles", false),
        ("SELECT title FROM shared.guarded", true),
        ("SELECT * FROM shared.titles()", false),
        ("SELECT * FROM shared.dynamic()", false),
    ] {
        assert_only_tenant(1, statement, &answer_of(&mut made, statement).await);
        assert_only_tenant(2, statement, &answer_of(&mut calls, statement).await);
        // A reader of all tenants has none in reader_tenants, by which the maker's own rights go.
        let answer = answer_of(&mut analyst, statement).await;
        for tenant in 1..=3 {
            assert_eq!(
                shows(&answer, tenant),
                is_callers,
                "tenant {tenant} by {statement}: {answer}"
            );
        }
    }
}

#[tokio::test]
async fn documented_hardening_keeps_readers_and_sync() {
    const PAGE: &str = include_str!("../../docs/operations/security.md");
    let world = World::of(5).await;
    world.successful_run().await;
    for name in ["contoso_bi", "fabrikam_bi"] {
        drop(reader(&world, name, &[1]).await);
    }
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    let blocks: Vec<&str> =
        PAGE.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() > 5, "the page was not understood: {blocks:?}");
    for block in blocks {
        let database = format!("DATABASE {}", world.database.get_database().unwrap());
        let names = ["contoso_bi", "fabrikam_bi", "bi_tool"];
        let block = block.replace("DATABASE incident_sync", &database);
        let block =
            names.iter().fold(block, |block, name| block.replace(name, &role(&world, name)));
        rows(&mut admin, &block).await.unwrap_or_else(|error| panic!("{block}: {error}"));
    }
    world.service().create(id(1));
    world.successful_run().await;
    world.assert_truth().await;
    let mut reader = log_in(&world.database, &role(&world, "contoso_bi")).await;
    rows(&mut reader, "SET default_transaction_read_only = off").await.unwrap();
    let count = "SELECT count(*)::text FROM defender.incidents";
    assert_eq!(texts(&mut reader, count).await, ["6"]);
    for statement in [
        "SELECT lo_create(0)",
        "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000))",
        "SELECT currtid2('defender.incidents', '(0,1)')",
        "SET temp_file_limit = -1",
        "CREATE TEMP TABLE mine ()",
        "CREATE TABLE public.mine ()",
    ] {
        assert_eq!(refused(&mut reader, statement).await, "42501", "{statement}");
    }
}

/// One incident with this much more in it, beside a good one.
fn page_with(member: &str) -> String {
    let odd = format!(
        r#"{{"incidentId":2,"lastUpdateTime":"2026-11-20T10:00:02Z","createdTime":"2026-11-20T10:00:00Z","status":"Active","alerts":[],{member}}}"#
    );
    page([1], None).replacen("\"value\":[", &format!("\"value\":[{odd},"), 1)
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test]
async fn odd_incident_leaves_rest_of_its_page_stored() {
    let keys: String = (0..50_000).map(|number| format!("\"k{number}\":0,")).collect();
    let table = [
        ("depth 100,000", format!("\"odd\":{}", nested(100_000)), 1),
        ("depth 100", format!("\"odd\":{}", nested(100)), 2),
        ("50,000 keys", format!("{keys}\"odd\":0"), 2),
        ("a key twice", "\"odd\":1,\"odd\":2".to_owned(), 2),
        ("its id twice", "\"incidentId\":3".to_owned(), 1),
        ("a number beyond all", "\"odd\":1e999999".to_owned(), 1),
        ("a key of 5 KB", format!("\"{}\":0", "k".repeat(5_000)), 2),
        ("NUL and half a pair", r#""incidentName":"\u0000\ud800""#.to_owned(), 2),
    ];
    let cases = table.clone().map(|(name, member, _)| api(name, move |_| ok(page_with(&member))));
    let ended = run(cases.into(), Deadlines::default()).await;
    for ((name, _, stored), (_, number, result)) in table.iter().zip(ended.each()) {
        assert_eq!(result.outcome, Outcome::Ok, "{name}: {:?}", result.report.failure);
        let count = |table: &str| {
            format!("SELECT count(*) FROM defender.{table} WHERE tenant_id = '{}'", id(number))
        };
        let (count, rejected) = (count("incidents"), count("rejected_payloads"));
        let found = (number_of(&ended.world, count).await, number_of(&ended.world, rejected).await);
        assert_eq!(found, (*stored, 2 - stored), "{name}");
    }
}

async fn number_of(world: &World, query: String) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(world.pool()).await.unwrap()
}

#[tokio::test]
async fn malformed_page_is_refused_as_a_whole() {
    let cases = vec![
        api("a list twice", |_| ok(r#"{"value":[],"value":[{"incidentId":1}]}"#)),
        api("depth 100,000 for the list", |_| {
            ok(format!(r#"{{"value":{{"value":{}}}}}"#, nested(100_000)))
        }),
        entra("a token reply of depth 20,000", |_| {
            ok(format!(r#"{{"access_token":{}}}"#, nested(20_000)))
        }),
        entra("a token twice", |_| {
            ok(format!(r#"{{"access_token":"{TOKEN}1","access_token":"{TOKEN}2"}}"#))
        }),
    ];
    run(cases, Deadlines::default()).await.all_failed(Outcome::Failed, "bad_reply").await;
}

/// As [`head`], on a connection that is kept.
fn kept(body: &str) -> Vec<u8> {
    let whole = String::from_utf8(answer(200, &[], body)).unwrap();
    whole.replacen("Connection: close\r\n", "", 1).into_bytes()
}

#[tokio::test]
async fn malformed_http_is_refused() {
    let good = page([1], None);
    let length = good.len().to_string();
    let chunked = head(200, &[("Transfer-Encoding", "chunked")]);
    let whole = format!("{:x}\r\n{good}\r\n0\r\n", good.len()).into_bytes();
    let trailers = [chunked.clone(), whole].concat();
    let extension =
        [chunked, format!("{:x};{}", good.len(), "x".repeat(100_000)).into_bytes()].concat();
    let extension = [extension, format!("\r\n{good}\r\n0\r\n\r\n").into_bytes()].concat();
    let two = [
        head(200, &[("Content-Length", &length), ("Content-Length", "7")]),
        good.clone().into_bytes(),
    ]
    .concat();
    let headers = [head(200, &[])[..16].to_vec(), b"X-Bomb: y\r\n".repeat(1_500_000)].concat();
    let trailer = b"X-Trailer: y\r\n".repeat(1_000);
    let cases = vec![
        api("trailers without end", move |_| {
            vec![Step::Say(trailers.clone()), Step::Forever(trailer.clone(), Duration::ZERO)]
        }),
        api("a chunk extension of 100 KB", move |_| vec![Step::Say(extension.clone())]),
        api("two lengths", move |_| vec![Step::Say(two.clone())]),
        api("16 MB of headers", move |_| vec![Step::Say(headers.clone())]),
    ];
    run(cases, Deadlines::default()).await.all_failed(Outcome::Failed, "transport").await;
}

#[tokio::test]
async fn odd_but_lawful_http_is_read() {
    let early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(1_000);
    let good = answer(200, &[], page([1], None));
    let hinted = [early, good.clone()].concat();
    let old = String::from_utf8(head(200, &[])).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1)
        + &page([1], None);
    let cases = vec![
        api("a thousand early hints", move |_| vec![Step::Say(hinted.clone())]),
        api("HTTP/1.0 without a length", move |_| vec![Step::Say(old.clone().into_bytes())]),
        entra("a token that lives 10^30 s", |asked| {
            let life = format!("1{}", "0".repeat(30));
            ok(format!(r#"{{"access_token":"{TOKEN}{}","expires_in":{life}}}"#, asked.tenant))
        }),
    ];
    run(cases, Deadlines::default()).await.all_stored(1).await;
}

#[tokio::test]
async fn response_smuggled_behind_another_is_never_taken() {
    let stolen = kept(&page([666], None));
    let (behind_token, behind_page) = (stolen.clone(), stolen);
    let token_of = |asked: &Asked| {
        let Some(Step::Say(bytes)) = token(asked.tenant).pop() else {
            panic!("a token is sent in one step")
        };
        String::from_utf8(bytes).unwrap().replacen("Connection: close\r\n", "", 1).into_bytes()
    };
    let cases = vec![
        entra("behind a token", move |asked| {
            vec![Step::Say([token_of(asked), behind_token.clone()].concat()), Step::Silence]
        }),
        api("behind a page", move |asked| {
            let link = (asked.before == 0).then_some("/api/incidents?more=1");
            vec![Step::Say([kept(&page([1], link)), behind_page.clone()].concat()), Step::Silence]
        }),
    ];
    let ended = run(cases, Deadlines::default()).await;
    ended.all_stored(1).await;
    assert_eq!(
        ended.world.number("SELECT count(*) FROM defender.incidents WHERE incident_id = 666").await,
        0
    );
}

#[tokio::test]
async fn backslash_link_does_not_reach_another_host() {
    let elsewhere = thief().await;
    let other = elsewhere.url.port().unwrap();
    let link = format!(r"http://127.0.0.1:OWN\@127.0.0.1:{other}/api/incidents");
    let script = move |asked: &Asked| {
        let link = link.replace("OWN", &asked.port);
        ok(page([1], (asked.before == 0).then_some(link.as_str())))
    };
    let ended = run(vec![api("backslash", script)], Deadlines::default()).await;
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
    assert!(ended.peer.pages(1) > 0);
}

#[tokio::test]
async fn absurd_retry_after_pauses_within_bounds() {
    // What is no number of seconds counts as no pause named: a minute.
    let table = [
        ("1e308", 60),
        ("-1", 60),
        ("NaN", 60),
        ("18446744073709551615", 6 * 3_600),
        ("99999999999", 6 * 3_600),
    ];
    let cases = table.map(|(value, _)| -> Case {
        api(value, move |_| vec![Step::Say(answer(429, &[("Retry-After", value)], ""))])
    });
    let ended = run(cases.into(), Deadlines::default()).await;
    for ((value, pause), (_, number, result)) in table.into_iter().zip(ended.each()) {
        assert_eq!(result.outcome, Outcome::Throttled, "{value}: {:?}", result.report.failure);
        let waits = format!(
            "SELECT extract(epoch FROM next_attempt_at - now())::bigint FROM defender.sync_state WHERE tenant_id = '{}'",
            id(number)
        );
        let waits = number_of(&ended.world, waits).await;
        assert!((pause / 2..=pause * 2).contains(&waits), "{value}: {waits} s");
    }
}
