-- Fills an empty database of the current schema with what a large partner has, to measure `reporting` with:
--   psql -d DATABASE -v tenants=500 -v incidents=2000 -f benches/reporting.sql
-- 500 tenants with 2,000 incidents each are 1,000,000 incidents, 3,000,000 alerts, 3,000,000 alert_devices and
-- 12,000,000 rows of evidence; two years of history, a tenth of the incidents open, one of fifty merged. As superuser, whom
-- no policy stops. The same numbers give the same rows.
\set ON_ERROR_STOP on
SET synchronous_commit = off;

CREATE FUNCTION pg_temp.tenant(number bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
AS $$ SELECT lpad(to_hex(number), 32, '0')::uuid $$;
-- Evenly spread over 0..2^31, and the same for the same number and salt.
CREATE FUNCTION pg_temp.dice(number bigint, salt integer) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$ SELECT hashint8(number * 31 + salt)::bigint & 2147483647 $$;

INSERT INTO defender.tenants (tenant_id, name, labels, enabled)
SELECT pg_temp.tenant(n), 'Customer ' || n, '{"tier": "gold"}', true FROM generate_series(1, :tenants) AS n;
INSERT INTO defender.sync_state (tenant_id, watermark, backfilled_at, last_attempt_at, last_success_at)
SELECT tenant_id, now(), now(), now(), now() FROM defender.tenants;

ALTER TABLE defender.incidents DISABLE TRIGGER note_milestones;
INSERT INTO defender.incidents (tenant_id, incident_id, incident_name, created_time, last_update_time, status, severity,
    assigned_to, redirect_incident_id, is_merged, acknowledged_at, acknowledged_at_is_exact, resolved_at, resolved_at_is_exact)
SELECT pg_temp.tenant(1 + n / :incidents), n % :incidents + 1, 'Multi-stage incident on one endpoint', made.created,
    coalesce(made.resolved, made.created + interval '1 hour'),
    CASE WHEN n % 50 = 0 THEN 'Redirected' WHEN made.resolved IS NULL THEN 'Active' ELSE 'Resolved' END,
    (ARRAY['High', 'Medium', 'Medium', 'Low', 'Low', 'Informational'])[1 + pg_temp.dice(n, 2) % 6],
    CASE WHEN made.resolved IS NOT NULL THEN 'analyst@partner.example' END,
    CASE WHEN n % 50 = 0 THEN n % :incidents + 2 END, n % 50 = 0,
    CASE WHEN made.resolved IS NOT NULL THEN made.created + (made.resolved - made.created) * 0.3 END,
    made.resolved IS NOT NULL, made.resolved, made.resolved IS NOT NULL
FROM generate_series(0, :tenants * :incidents - 1) AS n
CROSS JOIN LATERAL (SELECT now() - pg_temp.dice(n, 1) % 63072000 * interval '1 second' AS created) AS start
CROSS JOIN LATERAL (SELECT start.created, CASE WHEN pg_temp.dice(n, 3) % 10 > 0
    THEN least(start.created + pg_temp.dice(n, 4) % 604800 * interval '1 second', now()) END AS resolved) AS made;
ALTER TABLE defender.incidents ENABLE TRIGGER note_milestones;

INSERT INTO defender.alerts (tenant_id, alert_id, incident_id, creation_time, last_updated_time, first_activity,
    last_activity, title, category, status, severity, service_source, mitre_techniques, last_seen)
SELECT i.tenant_id, format('da%s_%s', i.incident_id * 3 + k, pg_temp.dice(i.incident_id * 3 + k, 5)), i.incident_id, i.created_time, i.last_update_time,
    i.created_time, i.created_time + interval '10 minutes', 'Suspicious PowerShell command line', 'Execution', 'New',
    i.severity, 'MicrosoftDefenderForEndpoint', ARRAY['T1059.001', 'T' || 1000 + pg_temp.dice(i.incident_id, 6) % 60],
    i.last_update_time
FROM defender.incidents i CROSS JOIN generate_series(0, 2) AS k;

INSERT INTO defender.devices (tenant_id, device_id, device_dns_name, os_platform, risk_score, last_seen)
SELECT t.tenant_id, md5('device' || n), 'host-' || n || '.customer.example', 'Windows11', 'Medium', now()
FROM defender.tenants t CROSS JOIN generate_series(0, 299) AS n;
INSERT INTO defender.alert_devices (tenant_id, alert_id, device_id)
SELECT tenant_id, alert_id, md5('device' || pg_temp.dice(hashtext(alert_id), 7) % 300) FROM defender.alerts;

INSERT INTO defender.evidence (tenant_id, alert_id, evidence_hash, entity_type, verdict, remediation_status,
    evidence_creation_time, user_principal_name, ip_address, file_name, sha256)
SELECT a.tenant_id, a.alert_id, sha256(convert_to(a.alert_id || k, 'UTF8')),
    (ARRAY['User', 'Ip', 'File', 'Process'])[k], 'Suspicious', 'None', a.creation_time,
    CASE k WHEN 1 THEN 'user' || pg_temp.dice(hashtext(a.alert_id), 8) % 500 || '@customer.example' END,
    CASE k WHEN 2 THEN '203.0.113.' || a.incident_id % 250 END,
    CASE WHEN k > 2 THEN 'powershell.exe' END, CASE WHEN k > 2 THEN md5(a.alert_id) || md5(a.title) END
FROM defender.alerts a CROSS JOIN generate_series(1, 4) AS k;

VACUUM ANALYZE defender.tenants, defender.incidents, defender.alerts, defender.devices, defender.alert_devices, defender.evidence;
