//! A database with rows in every table, migrated one step at a time from the first migration on: no step loses or changes a
//! row, and the views show these rows. The rows are inserted as soon as the tables exist, so that steps of later releases run
//! on them as well.

use std::collections::BTreeMap;

use incident_sync::store::MIGRATIONS;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::postgres;
use crate::support::roles::texts;

/// Rows of two customers that both have an incident 1. What triggers and defaults of later steps would set is given.
const ROWS: &str = "
    INSERT INTO defender.tenants (tenant_id, name, labels, enabled) VALUES
        ('00000000-0000-0000-0000-00000000000a', 'Contoso', '{\"tier\": \"gold\"}', true),
        ('00000000-0000-0000-0000-00000000000b', 'Fabrikam', '{}', true);
    INSERT INTO defender.sync_state (tenant_id, watermark, backfilled_at, last_attempt_at, last_success_at, lease_fence)
    SELECT tenant_id, '2025-03-05', '2025-03-01', '2025-03-05', '2025-03-05', 7 FROM defender.tenants;
    INSERT INTO defender.incidents (tenant_id, incident_id, redirect_incident_id, incident_name, created_time,
        last_update_time, assigned_to, status, severity, tags, first_synced_at, is_merged, acknowledged_at,
        acknowledged_at_is_exact, resolved_at, resolved_at_is_exact, reopened_count)
    SELECT ('00000000-0000-0000-0000-00000000000' || tenant)::uuid, incident, redirect, 'Incident ' || incident,
        created::timestamptz, updated::timestamptz, assigned, status, 'High', ARRAY['tag'], synced::timestamptz,
        redirect IS NOT NULL, acknowledged::timestamptz, tenant = 'a' AND acknowledged IS NOT NULL,
        CASE status WHEN 'Resolved' THEN updated::timestamptz END, tenant = 'a' AND status = 'Resolved', reopened
    FROM (VALUES
        ('a', 1, NULL, '2025-03-01 10:00Z', '2025-03-02 10:00Z', 'ann@partner.example', 'Resolved', '2025-03-01 10:05Z',
            '2025-03-01 11:00Z', 1),
        ('a', 2, 1, '2025-03-01 11:00Z', '2025-03-01 12:00Z', NULL, 'Redirected', '2025-03-01 11:05Z', NULL, 0),
        ('a', 3, NULL, '2025-03-03 10:00Z', '2025-03-03 10:00Z', NULL, 'Active', '2025-03-03 10:05Z', NULL, 0),
        ('b', 1, NULL, '2025-02-01 10:00Z', '2025-02-02 10:00Z', 'bob@partner.example', 'Resolved', '2025-03-01 10:05Z',
            '2025-02-02 10:00Z', 0)
    ) AS v(tenant, incident, redirect, created, updated, assigned, status, synced, acknowledged, reopened);
    INSERT INTO defender.incident_changes (change_id, tenant_id, incident_id, field, old_value, new_value, changed_at)
    SELECT number, ('00000000-0000-0000-0000-00000000000' || tenant)::uuid, incident, field, old, new, changed::timestamptz
    FROM (VALUES
        (1, 'a', 1, 'created', NULL, 'Active', '2025-03-01 10:00Z'),
        (2, 'a', 2, 'created', NULL, 'Active', '2025-03-01 11:00Z'),
        (3, 'b', 1, 'created', NULL, 'Resolved', '2025-02-01 10:00Z'),
        (4, 'a', 1, 'assigned_to', NULL, 'ann@partner.example', '2025-03-01 11:00Z'),
        (5, 'a', 2, 'status', 'Active', 'Redirected', '2025-03-01 12:00Z'),
        (6, 'a', 1, 'status', 'Active', 'Resolved', '2025-03-01 13:00Z'),
        (7, 'a', 1, 'status', 'Resolved', 'Active', '2025-03-01 14:00Z'),
        (8, 'a', 1, 'status', 'Active', 'Resolved', '2025-03-02 10:00Z'),
        (9, 'a', 3, 'created', NULL, 'Active', '2025-03-03 10:00Z')
    ) AS v(number, tenant, incident, field, old, new, changed);
    INSERT INTO defender.alerts (tenant_id, alert_id, incident_id, title, creation_time, mitre_techniques, last_seen)
    SELECT tenant_id, 'da' || incident_id, incident_id, 'Alert', created_time, ARRAY['T1059.001'], last_update_time
    FROM defender.incidents WHERE redirect_incident_id IS NULL;
    INSERT INTO defender.alerts (tenant_id, alert_id, incident_id, title, last_seen) VALUES
        ('00000000-0000-0000-0000-00000000000a', 'left', 1, 'Alert', '2025-03-01 13:00Z'),
        ('00000000-0000-0000-0000-00000000000a', 'merged', 2, 'Alert', '2025-03-01 12:00Z');
    INSERT INTO defender.devices (tenant_id, device_id, device_dns_name, last_seen)
    SELECT tenant_id, 'device', 'host', '2025-03-01' FROM defender.tenants;
    INSERT INTO defender.alert_devices SELECT tenant_id, alert_id, 'device' FROM defender.alerts;
    INSERT INTO defender.evidence (tenant_id, alert_id, evidence_hash, entity_type, user_principal_name, extra)
    SELECT tenant_id, alert_id, 'hash', 'User', 'eve@customer.example', '{\"new\": 1}' FROM defender.alerts;
    INSERT INTO defender.incident_comments (tenant_id, incident_id, comment_hash, comment)
    SELECT tenant_id, incident_id, 'hash', 'a comment' FROM defender.incidents;
    INSERT INTO defender.incident_payloads (tenant_id, incident_id, content_hash, payload)
    SELECT tenant_id, incident_id, 'hash', '{\"served\": true}' FROM defender.incidents;
    INSERT INTO defender.rejected_payloads (tenant_id, reason, payload, content_hash)
    SELECT tenant_id, 'no lastUpdateTime', '{}', 'hash' FROM defender.tenants;
    INSERT INTO defender.sync_runs (tenant_id, instance, kind, started_at, finished_at, outcome, api_calls, throttled,
        incidents_seen, incidents_written, alerts_written, rejected, mistyped_fields)
    SELECT tenant_id, 'host/1/a', 'poll', '2025-03-05', '2025-03-05', 'ok', 1, 0, 1, 1, 1, 0, 0 FROM defender.tenants;
    INSERT INTO defender.sync_gaps (tenant_id, window_from, window_to, error_class, error_message)
    SELECT tenant_id, '2025-03-04 10:00Z', '2025-03-04 10:01Z', 'unavailable', 'HTTP 500' FROM defender.tenants;
    INSERT INTO defender.audit (tenant_id, action, actor, row_counts)
    SELECT tenant_id, 'parked', 'root@host', '{}' FROM defender.tenants;
    INSERT INTO defender.summaries (tenant_id) SELECT tenant_id FROM defender.tenants;
    INSERT INTO defender.incident_days SELECT tenant_id, '2025-03-01', 'High', 1, 0, 1 FROM defender.tenants;
    INSERT INTO defender.incident_months SELECT tenant_id, '2025-03-01', 0, NULL, NULL, 0, 0, NULL, NULL, 0
    FROM defender.tenants;
    INSERT INTO defender.technique_months SELECT tenant_id, '2025-03-01', 'T1059.001', 1, 1 FROM defender.tenants;
    INSERT INTO defender.devices_open SELECT tenant_id, 'device', 1, 1, 'High', NULL FROM defender.tenants;
    INSERT INTO defender.users_open SELECT tenant_id, 'eve', NULL, NULL, NULL, 1, 1, 'High', NULL FROM defender.tenants;
    INSERT INTO defender.feed_server (system_identifier) VALUES (1);";

/// What the second step makes room for.
const GRANTS: &str = "INSERT INTO defender.reader_tenants (reader, tenant_id, reader_oid) SELECT 'reader', tenant_id, 10 FROM defender.tenants";

/// What row versions make room for.
const DELETIONS: &str = "INSERT INTO defender.deletions (tenant_id, view_name, key)
    SELECT tenant_id, 'devices', jsonb_build_object('tenant_id', tenant_id, 'device_id', 'gone') FROM defender.tenants";

/// The rows of every table, by the columns that it has now.
async fn contents(connection: &mut PgConnection) -> BTreeMap<String, (String, Vec<String>)> {
    let tables = "SELECT c.relname || ' ' || string_agg(quote_ident(attname), ', ' ORDER BY attnum)
        FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        WHERE relnamespace = 'defender'::regnamespace AND relkind = 'r' GROUP BY c.relname";
    let mut contents = BTreeMap::new();
    for line in texts(connection, tables).await {
        let (table, columns) = line.split_once(' ').unwrap();
        let rows = read(connection, table, columns).await;
        contents.insert(table.to_owned(), (columns.to_owned(), rows));
    }
    contents
}

async fn read(connection: &mut PgConnection, table: &str, columns: &str) -> Vec<String> {
    let rows = format!("SELECT row({columns})::text AS held FROM defender.{table} ORDER BY held");
    sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn each_migration_keeps_the_rows_of_every_table() {
    let options = postgres::empty_database().await;
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    let steps: Vec<_> = MIGRATIONS.iter().cloned().collect();
    for number in 1..=steps.len() {
        let before = if number > 1 { contents(&mut connection).await } else { BTreeMap::new() };
        let name = steps[number - 1].description.clone();
        let mut migrator = Migrator::with_migrations(steps[..number].to_vec());
        // The migrations set a search_path that does not hold it.
        migrator.dangerous_set_table_name("public._sqlx_migrations");
        migrator.run(&mut connection).await.unwrap();
        for (table, (columns, rows)) in before {
            // A migration may change the schema's own record.
            if table != "schema_info" {
                assert!(!rows.is_empty(), "no row of {table} was tried");
                assert_eq!(
                    read(&mut connection, &table, &columns).await,
                    rows,
                    "{table} after {name}"
                );
            }
        }
        let rows = match &*name {
            "tables" => ROWS,
            "isolation" => GRANTS,
            "row versions" => DELETIONS,
            _ => "",
        };
        sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
    }

    let incidents = "SELECT concat_ws(' ', tenant_name, incident_id,
            CASE WHEN is_open THEN 'open' END, 'into ' || merged_into_incident_id,
            'acknowledged ' || to_char(acknowledged_at AT TIME ZONE 'UTC', 'DD HH24:MI') || CASE WHEN NOT acknowledged_at_is_exact THEN '?' ELSE '' END,
            'resolved ' || to_char(resolved_at AT TIME ZONE 'UTC', 'DD HH24:MI') || CASE WHEN NOT resolved_at_is_exact THEN '?' ELSE '' END,
            'reopened ' || reopened_count, alert_count || '/' || device_count || '/' || user_count)
        FROM reporting.incidents ORDER BY tenant_name, incident_id";
    assert_eq!(
        texts(&mut connection, incidents).await,
        [
            "Contoso 1 acknowledged 01 11:00 resolved 02 10:00 reopened 1 1/1/1",
            "Contoso 2 into 1 reopened 0 1/1/1",
            "Contoso 3 open reopened 0 1/1/1",
            "Fabrikam 1 acknowledged 02 10:00? resolved 02 10:00? reopened 0 1/1/1",
        ]
    );
    let alerts = "SELECT concat_ws(' ', alert_id, CASE WHEN is_listed THEN 'listed' END,
            CASE WHEN incident_is_merged THEN 'merged' END)
        FROM defender.alerts ORDER BY tenant_id, alert_id";
    assert_eq!(
        texts(&mut connection, alerts).await,
        ["da1 listed", "da3 listed", "left", "merged listed merged", "da1 listed"]
    );
    let changes = "SELECT concat_ws(' ', tenant_name, incident_id, field, new_value) FROM reporting.incident_changes
        ORDER BY change_id";
    let changes = texts(&mut connection, changes).await;
    assert_eq!(changes.len(), 9);
    assert_eq!(changes[3], "Contoso 1 assigned_to ann@partner.example");
}
