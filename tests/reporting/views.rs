//! The views of `reporting`, with incidents whose right answers were worked out by hand.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::postgres;
use crate::support::world::{World, id};

/// The milestones of each incident as its rows in `incident_changes` show them. What was so at first sight was so at the
/// latest when the incident was first synced, and not after its newest version.
const MILESTONES_FROM_CHANGES: &str = "
    WITH history AS (
        SELECT tenant_id, incident_id,
            max(new_value) FILTER (WHERE field = 'created') AS first_status,
            (array_agg(old_value ORDER BY change_id) FILTER (WHERE field = 'assigned_to'))[1] AS first_assigned_to,
            bool_or(field = 'assigned_to') AS was_reassigned,
            min(changed_at) FILTER (WHERE field = 'status' AND defender.is_acknowledged(new_value, NULL)
                OR field = 'assigned_to' AND defender.is_acknowledged(NULL, new_value)) AS acknowledged_at,
            max(changed_at) FILTER (WHERE field = 'status' AND new_value = 'Resolved') AS resolved_at,
            count(*) FILTER (WHERE field = 'status' AND old_value = 'Resolved'
                AND new_value NOT IN ('Resolved', 'Redirected')) AS reopened_count
        FROM defender.incident_changes
        GROUP BY tenant_id, incident_id
    ),
    milestones AS (
        SELECT i.tenant_id, i.incident_id, h.acknowledged_at, h.resolved_at, h.reopened_count,
            least(i.first_synced_at, i.last_update_time) AS at_first_sight,
            defender.is_acknowledged(h.first_status,
                CASE WHEN h.was_reassigned THEN h.first_assigned_to ELSE i.assigned_to END) AS acknowledged_before,
            i.status = 'Resolved' OR i.status = 'Redirected' AND h.resolved_at IS NOT NULL AS is_resolved
        FROM defender.incidents i
        JOIN history h USING (tenant_id, incident_id)
    )
    UPDATE defender.incidents i SET
        acknowledged_at = CASE WHEN m.acknowledged_before THEN m.at_first_sight ELSE m.acknowledged_at END,
        acknowledged_at_is_exact = NOT m.acknowledged_before AND m.acknowledged_at IS NOT NULL,
        resolved_at = CASE WHEN m.is_resolved THEN coalesce(m.resolved_at, m.at_first_sight) END,
        resolved_at_is_exact = coalesce(m.is_resolved, false) AND m.resolved_at IS NOT NULL,
        reopened_count = m.reopened_count
    FROM milestones m
    WHERE i.tenant_id = m.tenant_id AND i.incident_id = m.incident_id";

/// One version of an incident as the API would have served it. Times are of March 2025: `01 10:05`.
#[derive(Clone, Copy)]
struct Version {
    incident: i64,
    severity: &'static str,
    created: &'static str,
    updated: &'static str,
    status: &'static str,
    assigned_to: Option<&'static str>,
    redirect: Option<i64>,
}

/// Stores versions by the statement that the product stores them by.
async fn store(connection: &mut PgConnection, tenant: Uuid, versions: &[Version]) {
    for version in versions {
        let nothing = || vec![None::<String>];
        let time = |text: &str| vec![format!("2025-03-{text}:00Z").replace(' ', "T")];
        let statement = include_str!("../../src/store/sql/upsert_incidents.sql")
            .replace("$3::timestamptz[]", "$3::text[]::timestamptz[]")
            .replace("$7::timestamptz[]", "$7::text[]::timestamptz[]");
        let stored = sqlx::query(AssertSqlSafe(statement))
            .bind(tenant)
            .bind(vec![version.incident])
            .bind(time(version.updated))
            .bind(nothing())
            .bind(vec![version.redirect])
            .bind(vec![format!("Incident {}", version.incident)])
            .bind(time(version.created))
            .bind(vec![version.assigned_to])
            .bind(nothing())
            .bind(nothing())
            .bind(vec![version.status])
            .bind(vec![version.severity])
            .bind(nothing())
            .bind(nothing())
            .bind(nothing())
            .bind(nothing())
            .bind(nothing())
            .bind(nothing())
            .bind(vec![None::<i64>])
            .bind(nothing())
            .bind(nothing())
            .bind("defender")
            .execute(&mut *connection)
            .await
            .unwrap();
        assert_eq!(stored.rows_affected(), 1);
    }
}

async fn execute(connection: &mut PgConnection, statements: String) {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await.unwrap();
}

/// The rows of a query, each as the text of its columns.
async fn rows(connection: &mut PgConnection, query: &str) -> Vec<String> {
    let query = format!("SELECT trim(both '()' FROM asked::text) FROM ({query}) AS asked");
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(connection).await.unwrap()
}

fn version(incident: i64, severity: &'static str, created: &'static str) -> Version {
    Version {
        incident,
        severity,
        created,
        updated: created,
        status: "Active",
        assigned_to: None,
        redirect: None,
    }
}

fn merged(incident: i64, into: i64) -> Version {
    Version { status: "Redirected", redirect: Some(into), ..version(incident, "High", "01 09:00") }
}

/// The stories of the incidents of two customers; both have an incident 1.
async fn stories(connection: &mut PgConnection) {
    let handled = version(1, "High", "01 10:00");
    let reopened = version(2, "Medium", "01 12:00");
    let contoso = [
        handled,
        Version { updated: "01 10:35", assigned_to: Some("ann"), ..handled },
        Version { updated: "01 11:00", assigned_to: Some("ann"), status: "InProgress", ..handled },
        Version { updated: "02 10:00", assigned_to: Some("ann"), status: "Resolved", ..handled },
        reopened,
        Version { updated: "01 14:00", status: "Resolved", ..reopened },
        Version { updated: "02 12:00", ..reopened },
        Version { updated: "03 12:00", status: "Resolved", ..reopened },
        // Resolved before the first sync.
        Version { updated: "01 06:00", status: "Resolved", ..version(3, "High", "01 00:00") },
        // Without alerts; assigned to automation only.
        Version { assigned_to: Some("Automation"), ..version(4, "Low", "02 09:00") },
        // Assigned when it was first seen.
        Version { updated: "02 09:00", assigned_to: Some("bob"), ..version(5, "Low", "02 08:00") },
        // A chain, a loop, an unknown target, and one that names itself.
        merged(6, 7),
        merged(7, 1),
        merged(8, 9),
        merged(9, 8),
        merged(10, 999),
        Version { redirect: Some(11), ..version(11, "Informational", "02 07:00") },
    ];
    store(connection, id(1), &contoso).await;
    store(connection, id(2), &[version(1, "Medium", "02 00:00")]).await;
    let (contoso, fabrikam, gone) = (id(1), id(2), id(3));
    execute(
        connection,
        format!(
            "INSERT INTO defender.tenants (tenant_id, name, enabled, removed_at) VALUES
                ('{contoso}', 'Contoso', true, NULL), ('{fabrikam}', 'Fabrikam', true, NULL), ('{gone}', 'Gone', false, now());
            INSERT INTO defender.incidents (tenant_id, incident_id, last_update_time) VALUES ('{gone}', 1, '2025-03-01');
            INSERT INTO defender.alerts (tenant_id, alert_id, incident_id, creation_time, mitre_techniques, last_seen) VALUES
                ('{contoso}', 'a1', 1, '2025-03-01 10:00Z', '{{T1059,T1078,T1059}}', '2025-03-02 10:00Z'),
                ('{contoso}', 'a2', 1, '2025-03-01 10:01Z', '{{T1059}}', '2025-03-02 10:00Z'),
                ('{contoso}', 'a5', 5, '2025-03-02 08:00Z', '{{T1059}}', '2025-03-02 09:00Z'),
                ('{contoso}', 'not listed any more', 5, '2025-03-02 08:00Z', NULL, '2025-03-02 08:00Z'),
                ('{contoso}', 'of a merged one', 6, '2025-03-01 09:00Z', '{{T1059}}', '2025-03-01 09:00Z'),
                ('{fabrikam}', 'a1', 1, '2025-03-02 00:00Z', NULL, '2025-03-02 00:00Z');
            UPDATE defender.alerts SET is_listed = false WHERE alert_id = 'not listed any more';
            UPDATE defender.alerts SET incident_is_merged = true WHERE alert_id = 'of a merged one';
            INSERT INTO defender.alert_devices (tenant_id, alert_id, device_id) VALUES
                ('{contoso}', 'a1', 'd1'), ('{contoso}', 'a2', 'd1'), ('{contoso}', 'a2', 'd2'), ('{contoso}', 'a5', 'd1'),
                ('{contoso}', 'not listed any more', 'd3'), ('{contoso}', 'of a merged one', 'd4'), ('{fabrikam}', 'a1', 'd1');
            INSERT INTO defender.devices (tenant_id, device_id, device_dns_name, last_seen)
                VALUES ('{contoso}', 'd1', 'laptop', now()), ('{fabrikam}', 'd1', 'server', now());
            INSERT INTO defender.evidence (tenant_id, alert_id, evidence_hash, entity_type, user_principal_name, ip_address) VALUES
                ('{contoso}', 'a5', '\\x01', 'User', 'Eve@contoso.example', NULL),
                ('{contoso}', 'a5', '\\x02', 'user', 'eve@contoso.example', NULL),
                ('{contoso}', 'a5', '\\x03', 'Ip', NULL, '192.0.2.1'),
                ('{contoso}', 'of a merged one', '\\x04', 'Ip', NULL, '192.0.2.2'),
                ('{fabrikam}', 'a1', '\\x01', 'User', 'dan@fabrikam.example', NULL);"
        ),
    )
    .await;
}

const INCIDENTS: &str = "SELECT incident_id, is_open, is_merged, merged_into_incident_id,
        time_to_acknowledge_seconds, time_to_resolve_seconds, reopened_count, alert_count, device_count, user_count
    FROM reporting.incidents ORDER BY tenant_name, incident_id";
const OF_CONTOSO: [&str; 11] = [
    "1,f,f,,2100,86400,0,2,2,0",
    "2,f,f,,7200,172800,1,0,0,0",
    "3,f,f,,,,0,0,0,0",
    "4,t,f,,,,0,0,0,0",
    "5,t,f,,,,0,1,1,1",
    "6,f,t,1,,,0,1,1,0",
    "7,f,t,1,,,0,0,0,0",
    "8,f,t,,,,0,0,0,0",
    "9,f,t,,,,0,0,0,0",
    "10,f,t,999,,,0,0,0,0",
    "11,t,f,,,,0,0,0,0",
];
const OF_FABRIKAM: &str = "1,t,f,,,,0,1,1,1";

/// What a reader of all tenants sees; one of Fabrikam alone sees the lines that name it.
const QUESTIONS: [(&str, &[&str]); 8] = [
    (
        "SELECT tenant_name, incident_id FROM reporting.open_incidents ORDER BY 1, 2",
        &["Contoso,4", "Contoso,5", "Contoso,11", "Fabrikam,1"],
    ),
    (
        "SELECT tenant_name, alert_id, is_listed, device_count, evidence_count FROM reporting.alerts ORDER BY 1, 2",
        &["Contoso,a1,t,1,0", "Contoso,a2,t,2,0", "Contoso,a5,t,1,3", "Contoso,\"not listed any more\",f,1,0", "Fabrikam,a1,t,1,1"],
    ),
    (
        "SELECT tenant_name, alert_id, incident_id, evidence_key, subject FROM reporting.evidence ORDER BY 1, 4",
        &[
            "Contoso,a5,5,01,Eve@contoso.example",
            "Contoso,a5,5,02,eve@contoso.example",
            "Contoso,a5,5,03,192.0.2.1",
            "Fabrikam,a1,1,01,dan@fabrikam.example",
        ],
    ),
    (
        "SELECT tenant_name, device_id, device_dns_name, open_incident_count, alert_count, highest_severity
            FROM reporting.devices_at_risk ORDER BY 1, 2",
        &["Contoso,d1,laptop,1,1,Low", "Fabrikam,d1,server,1,1,Medium"],
    ),
    (
        "SELECT tenant_name, user_key, open_incident_count, alert_count, highest_severity
            FROM reporting.users_at_risk ORDER BY 1, 2",
        &["Contoso,eve@contoso.example,1,1,Low", "Fabrikam,dan@fabrikam.example,1,1,Medium"],
    ),
    (
        "SELECT tenant_name, month, acknowledged_count, time_to_acknowledge_median_seconds, time_to_acknowledge_p90_seconds,
                acknowledged_unobserved_count, resolved_count, time_to_resolve_median_seconds,
                time_to_resolve_p90_seconds, resolved_unobserved_count
            FROM reporting.mttr_by_tenant_month ORDER BY 1",
        &["Contoso,2025-03-01,2,4650,6690,2,2,129600,164160,1"],
    ),
    (
        "SELECT tenant_name, technique, month, alert_count, incident_count FROM reporting.mitre_coverage ORDER BY 1, 2",
        &["Contoso,T1059,2025-03-01,3,2", "Contoso,T1078,2025-03-01,1,1"],
    ),
    (
        "SELECT tenant_name, severity, extract(day FROM day), opened, resolved, backlog
            FROM reporting.incident_trend_daily WHERE day <= '2025-03-03' ORDER BY 1, 2, day",
        &[
            "Contoso,High,1,2,1,1",
            "Contoso,High,2,0,1,0",
            "Contoso,High,3,0,0,0",
            "Contoso,Informational,2,1,0,1",
            "Contoso,Informational,3,0,0,1",
            "Contoso,Low,2,2,0,2",
            "Contoso,Low,3,0,0,2",
            "Contoso,Medium,1,1,0,1",
            "Contoso,Medium,2,0,0,1",
            "Contoso,Medium,3,0,1,0",
            "Fabrikam,Medium,2,1,0,1",
            "Fabrikam,Medium,3,0,0,1",
        ],
    ),
];

async fn filled_database() -> (PgConnectOptions, PgConnection) {
    let database = postgres::database().await;
    let mut connection = PgConnection::connect_with(&database).await.unwrap();
    stories(&mut connection).await;
    (database, connection)
}

#[tokio::test]
async fn views_equal_answers_worked_out_by_hand() {
    let (_, mut connection) = filled_database().await;
    assert_answers(&mut connection).await;
    let summarise = "DO $$ DECLARE tenant uuid; BEGIN FOR tenant IN SELECT tenant_id FROM defender.tenants LOOP
            PERFORM set_config('incident_sync.tenant_id', tenant::text, true), defender.summarise(tenant);
        END LOOP; END $$";
    execute(&mut connection, format!("RESET ROLE; {summarise}")).await;
    assert_eq!(
        rows(&mut connection, "SELECT bool_and(is_current) FROM defender.summaries").await,
        ["t"]
    );
    assert_answers(&mut connection).await;
}

async fn assert_answers(connection: &mut PgConnection) {
    execute(
        connection,
        "SET ROLE incident_sync_reader; SET TimeZone = 'Pacific/Kiritimati'".to_owned(),
    )
    .await;
    let mut expected = OF_CONTOSO.to_vec();
    expected.push(OF_FABRIKAM);
    assert_eq!(rows(connection, INCIDENTS).await, expected);
    for (query, expected) in QUESTIONS {
        assert_eq!(rows(connection, query).await, expected, "{query}");
    }
    let lines = "SELECT severity, count(*) = max(day) - min(day) + 1 AND max(day) = (now() AT TIME ZONE 'UTC')::date,
            (array_agg(backlog ORDER BY day DESC))[1]
        FROM reporting.incident_trend_daily WHERE tenant_name = 'Contoso' GROUP BY 1 ORDER BY 1";
    let without_gaps_until_today = ["High,t,0", "Informational,t,1", "Low,t,2", "Medium,t,0"];
    assert_eq!(rows(connection, lines).await, without_gaps_until_today);
    let freshness = "SELECT tenant_name, last_outcome FROM reporting.tenant_freshness ORDER BY 1";
    assert_eq!(
        rows(connection, freshness).await,
        ["Contoso,\"never run\"", "Fabrikam,\"never run\""]
    );
    let link = "SELECT portal_url FROM reporting.incidents WHERE incident_id = 1 AND tenant_name = 'Fabrikam'";
    let expected = format!("https://security.microsoft.com/incidents/1?tid={}", id(2));
    assert_eq!(rows(connection, link).await, [expected]);
}

#[tokio::test]
async fn views_show_reader_of_one_tenant_that_tenant() {
    let (database, mut connection) = filled_database().await;
    let role = format!("of_fabrikam_{}", database.get_database().unwrap());
    execute(
        &mut connection,
        format!(
            "CREATE ROLE {role} LOGIN IN ROLE incident_sync_tenant_reader;
            INSERT INTO defender.reader_tenants VALUES ('{role}', '{}', '{role}'::regrole);",
            id(2)
        ),
    )
    .await;
    let mut reader = PgConnection::connect_with(&database.clone().username(&role)).await.unwrap();
    assert_eq!(rows(&mut reader, INCIDENTS).await, [OF_FABRIKAM]);
    for (query, all) in QUESTIONS {
        let expected: Vec<&str> =
            all.iter().copied().filter(|line| line.starts_with("Fabrikam,")).collect();
        assert_eq!(rows(&mut reader, query).await, expected, "{query}");
    }
    let freshness = "SELECT tenant_name, gaps FROM reporting.tenant_freshness";
    assert_eq!(rows(&mut reader, freshness).await, ["Fabrikam,0"]);
    let views = "SELECT relname FROM pg_class WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v'
        AND NOT (reloptions @> '{security_invoker=true,security_barrier=true}'
            AND has_table_privilege('incident_sync_reader', oid, 'SELECT'))";
    assert_eq!(rows(&mut reader, views).await, [""; 0], "each view has its reader's rights");
}

/// The trigger keeps what the recorded changes show.
#[tokio::test]
async fn milestones_equal_the_recorded_changes() {
    let (_, mut connection) = filled_database().await;
    let exact = "SELECT tenant_id, incident_id, acknowledged_at_is_exact, resolved_at_is_exact, reopened_count,
            CASE WHEN acknowledged_at_is_exact THEN acknowledged_at END, CASE WHEN resolved_at_is_exact THEN resolved_at END,
            acknowledged_at IS NULL, resolved_at IS NULL
        FROM defender.incidents WHERE incident_name IS NOT NULL ORDER BY 1, 2";
    let kept = rows(&mut connection, exact).await;
    assert_eq!(kept.len(), 12);
    execute(
        &mut connection,
        format!(
            "ALTER TABLE defender.incidents DISABLE TRIGGER note_milestones;
            UPDATE defender.incidents SET acknowledged_at = NULL, acknowledged_at_is_exact = false, resolved_at = NULL,
                resolved_at_is_exact = false, reopened_count = 0;
            {MILESTONES_FROM_CHANGES};"
        ),
    )
    .await;
    assert_eq!(rows(&mut connection, exact).await, kept);
}

/// Those of the pages for analysts and of the change feed, as a role that may only read.
#[tokio::test]
async fn every_documented_query_returns_rows() {
    let world = World::of(60).await;
    world.successful_run().await;
    let unknown_keys = r#"UPDATE defender.alerts
        SET extra = '{"loggedOnUsers": [{"accountName": "user2", "domainName": "corp"}]}'"#;
    sqlx::query(unknown_keys).execute(world.pool()).await.unwrap();
    let analysts = include_str!("../../docs/data/analysts.md");
    let feed = include_str!("../../docs/data/change-feed.md");
    let blocks = [analysts, feed].into_iter().flat_map(|page| page.split("```sql\n").skip(1));
    let queries: Vec<&str> = blocks.map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(queries.len() >= 6, "{queries:?}");
    let mut reader = PgConnection::connect_with(&world.database).await.unwrap();
    execute(&mut reader, "SET ROLE incident_sync_reader".to_owned()).await;
    for query in queries {
        assert!(!query.contains("defender."), "the tables may change with any release: {query}");
        let query = query.replace("current_date", "date '2026-11-23'"); // The service's.
        let last = tokio::time::Instant::now() + Duration::from_secs(60);
        // The feed shows a change when no older transaction of the server that we share runs any more.
        while sqlx::raw_sql(AssertSqlSafe(query.as_str()))
            .fetch_all(&mut reader)
            .await
            .unwrap()
            .is_empty()
        {
            assert!(tokio::time::Instant::now() < last, "no rows: {query}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn status_page_and_view_agree_on_open_incidents() {
    let world = World::of(40).await;
    world.successful_run().await;
    for statement in [
        // Resolved once; its newest version has no status.
        "UPDATE defender.incidents SET status = 'Resolved' WHERE incident_id = 1",
        "UPDATE defender.incidents SET status = NULL WHERE incident_id = 1",
        // Merged by its id alone.
        "UPDATE defender.incidents SET status = 'Active', redirect_incident_id = 2 WHERE incident_id = 3",
    ] {
        let changed = sqlx::query(statement).execute(world.pool()).await.unwrap().rows_affected();
        assert_eq!(changed, 1, "{statement}");
    }

    let status = world.store.tenant_status().await.unwrap().remove(0);
    let (_, fleet) = world.store.fleet().await.unwrap();

    let view = world.number("SELECT count(*) FROM reporting.open_incidents").await;
    assert!((1..39).contains(&view), "{view}");
    assert_eq!(status.open_incidents, view);
    let page = &fleet[0];
    assert_eq!(page.open_high + page.open_medium + page.open_low + page.open_other, view);
    assert_eq!(status.incidents, 40);
}
