-- Alerts are written only when they change. Whether the newest version of its incident lists an alert becomes a column: until
-- now it was a comparison of versions, so that a comment on an incident wrote all of its alerts. And whether its incident was
-- merged, so that no view has to look the incident of an alert up. And the keys without a column of incidents and alerts.
--
-- Takes milliseconds, and a second for each 50,000 alerts that are no longer listed or whose incident was merged.

ALTER TABLE defender.incidents ADD COLUMN extra jsonb;
COMMENT ON COLUMN defender.incidents.extra IS 'Keys of the incident without a column of their own, as served; without nulls';
ALTER TABLE defender.incidents ALTER COLUMN extra SET STATISTICS 0;

ALTER TABLE defender.alerts
    ADD COLUMN is_listed          boolean NOT NULL DEFAULT true,
    ADD COLUMN incident_is_merged boolean NOT NULL DEFAULT false,
    ADD COLUMN devices_without_id integer NOT NULL DEFAULT 0,
    ADD COLUMN extra              jsonb;
COMMENT ON COLUMN defender.alerts.is_listed IS 'Whether the newest version of the incident lists the alert';
COMMENT ON COLUMN defender.alerts.incident_is_merged IS 'is_merged of its incident';
COMMENT ON COLUMN defender.alerts.devices_without_id IS 'Devices that the alert names without an id; they have no row in devices. Source graph has them as evidence';
COMMENT ON COLUMN defender.alerts.extra IS 'Keys of the alert without a column of their own, as served; without nulls';
COMMENT ON COLUMN defender.alerts.last_seen IS 'last_update_time of an incident version that listed the alert: of the newest one if is_listed is false, of the one with which this row was written if it is true';
COMMENT ON COLUMN defender.alerts.changed_at IS 'When this row was last written: an alert without a change is not';
ALTER TABLE defender.alerts ALTER COLUMN extra SET STATISTICS 0;

-- The owner sees no row while row-level security is forced. The trigger would mark the summaries of all tenants, which do not
-- change.
ALTER TABLE defender.incidents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE defender.alerts NO FORCE ROW LEVEL SECURITY, DISABLE TRIGGER note_change;
UPDATE defender.alerts a SET is_listed = a.last_seen >= i.last_update_time, incident_is_merged = i.is_merged
FROM defender.incidents i
WHERE i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id AND (a.last_seen < i.last_update_time OR i.is_merged);
ALTER TABLE defender.incidents FORCE ROW LEVEL SECURITY;
ALTER TABLE defender.alerts FORCE ROW LEVEL SECURITY, ENABLE TRIGGER note_change;

CREATE FUNCTION defender.merge_alerts() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE defender.alerts SET incident_is_merged = NEW.is_merged
    WHERE tenant_id = NEW.tenant_id AND incident_id = NEW.incident_id AND incident_is_merged <> NEW.is_merged;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.merge_alerts IS 'Copies is_merged of an incident to its alerts';
REVOKE EXECUTE ON FUNCTION defender.merge_alerts FROM PUBLIC;
CREATE TRIGGER merge_alerts AFTER UPDATE ON defender.incidents
    FOR EACH ROW WHEN (OLD.is_merged <> NEW.is_merged) EXECUTE FUNCTION defender.merge_alerts();

-- See 0001_tables.sql.
CREATE TYPE defender.alert_record_3 AS (
    alert_id            text,
    incident_id         bigint,
    provider_alert_id   text,
    service_source      text,
    detection_source    text,
    detector_id         text,
    creation_time       timestamptz,
    last_updated_time   timestamptz,
    resolved_time       timestamptz,
    first_activity      timestamptz,
    last_activity       timestamptz,
    title               text,
    description         text,
    category            text,
    status              text,
    severity            text,
    investigation_id    bigint,
    investigation_state text,
    classification      text,
    determination       text,
    assigned_to         text,
    actor_name          text,
    threat_family_name  text,
    mitre_techniques    text,
    alert_web_url       text,
    recommended_actions text,
    product_name        text,
    alert_policy_id     text,
    categories          text,
    system_tags         text,
    last_seen           timestamptz,
    devices_without_id  integer,
    extra               text
);
COMMENT ON TYPE defender.alert_record_3 IS 'Row of alerts in an insert statement; arrays and JSON as text';

CREATE OR REPLACE VIEW defender.devices_open_now WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, x.device_id, count(DISTINCT i.incident_id) AS open_incident_count, count(*) AS alert_count,
    defender.severity_of_rank(max(defender.severity_rank(i.severity))) AS highest_severity,
    max(a.last_activity) AS last_activity
FROM defender.incidents i
JOIN defender.alerts a ON a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.is_listed
JOIN defender.alert_devices x ON x.tenant_id = a.tenant_id AND x.alert_id = a.alert_id
WHERE i.resolved_at IS NULL AND NOT i.is_merged
GROUP BY i.tenant_id, x.device_id;

CREATE OR REPLACE VIEW defender.users_open_now WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, u.user_key, max(e.user_principal_name) AS user_principal_name,
    max(e.account_name) AS account_name, max(e.aad_user_id) AS aad_user_id,
    count(DISTINCT i.incident_id) AS open_incident_count, count(DISTINCT a.alert_id) AS alert_count,
    defender.severity_of_rank(max(defender.severity_rank(i.severity))) AS highest_severity,
    max(a.last_activity) AS last_activity
FROM defender.incidents i
JOIN defender.alerts a ON a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.is_listed
JOIN defender.evidence e ON e.tenant_id = a.tenant_id AND e.alert_id = a.alert_id
CROSS JOIN LATERAL (SELECT lower(coalesce(e.user_principal_name, e.aad_user_id, e.user_sid, e.account_name))) AS u(user_key)
WHERE i.resolved_at IS NULL AND NOT i.is_merged AND lower(e.entity_type) = 'user' AND u.user_key IS NOT NULL
GROUP BY i.tenant_id, u.user_key;

CREATE OR REPLACE VIEW defender.incident_counts_now WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, i.incident_id,
    (SELECT count(*) FROM defender.alerts a
        WHERE a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.is_listed
    ) AS alert_count,
    (SELECT count(DISTINCT d.device_id) FROM defender.alerts a JOIN defender.alert_devices d USING (tenant_id, alert_id)
        WHERE a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.is_listed
    ) AS device_count,
    (SELECT count(DISTINCT lower(coalesce(e.user_principal_name, e.aad_user_id, e.user_sid, e.account_name)))
        FROM defender.alerts a JOIN defender.evidence e USING (tenant_id, alert_id)
        WHERE a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.is_listed
            AND lower(e.entity_type) = 'user'
    ) AS user_count
FROM defender.incidents i;

CREATE OR REPLACE FUNCTION defender.summarise(summarised uuid) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_nestloop = off SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    today constant date := (now() AT TIME ZONE 'UTC')::date;
    summary record;
BEGIN
    INSERT INTO defender.summaries (tenant_id) VALUES (summarised) ON CONFLICT DO NOTHING;
    -- Waits for transactions that change the tenant's rows; later ones wait for this one.
    PERFORM FROM defender.summaries WHERE tenant_id = summarised FOR UPDATE;
    IF EXISTS (SELECT FROM defender.summaries WHERE tenant_id = summarised AND is_current) THEN
        RETURN;
    END IF;
    -- The counts of incident_counts_now, for all incidents of the tenant together.
    WITH listed AS MATERIALIZED (
        SELECT a.incident_id, a.alert_id
        FROM defender.incidents i
        JOIN defender.alerts a USING (tenant_id, incident_id)
        WHERE i.tenant_id = summarised AND a.is_listed
    ),
    alert_counts AS (SELECT incident_id, count(*) AS alerts FROM listed GROUP BY incident_id),
    device_counts AS (
        SELECT l.incident_id, count(DISTINCT d.device_id) AS devices
        FROM listed l
        JOIN defender.alert_devices d USING (alert_id)
        WHERE d.tenant_id = summarised
        GROUP BY l.incident_id
    ),
    user_counts AS (
        SELECT l.incident_id,
            count(DISTINCT lower(coalesce(e.user_principal_name, e.aad_user_id, e.user_sid, e.account_name))) AS users
        FROM listed l
        JOIN defender.evidence e USING (alert_id)
        WHERE e.tenant_id = summarised AND lower(e.entity_type) = 'user'
        GROUP BY l.incident_id
    ),
    counted AS (
        SELECT i.incident_id, coalesce(a.alerts, 0) AS alerts, coalesce(d.devices, 0) AS devices, coalesce(u.users, 0) AS users
        FROM defender.incidents i
        LEFT JOIN alert_counts a USING (incident_id)
        LEFT JOIN device_counts d USING (incident_id)
        LEFT JOIN user_counts u USING (incident_id)
        WHERE i.tenant_id = summarised
    )
    UPDATE defender.incidents i
    SET alert_count = c.alerts, device_count = c.devices, user_count = c.users
    FROM counted c
    WHERE i.tenant_id = summarised AND i.incident_id = c.incident_id
        AND (i.alert_count, i.device_count, i.user_count) IS DISTINCT FROM (c.alerts, c.devices, c.users);
    FOR summary IN
        SELECT c.relname AS name,
            string_agg(quote_ident(a.attname), ', ') FILTER (WHERE a.attnum = ANY (k.conkey)) AS key,
            string_agg(format('fresh.%1$I = old.%1$I', a.attname), ' AND ') FILTER (WHERE a.attnum = ANY (k.conkey)) AS same,
            string_agg(format('%1$I = excluded.%1$I', a.attname), ', ') AS assignments
        FROM pg_class c
        JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'defender'::regnamespace
            AND c.relname IN ('incident_days', 'incident_months', 'technique_months', 'devices_open', 'users_open')
        GROUP BY c.relname
    LOOP
        EXECUTE format('
            WITH fresh AS MATERIALIZED (SELECT * FROM defender.%1$I WHERE tenant_id = $1),
            gone AS (
                DELETE FROM defender.%2$I old WHERE tenant_id = $1 AND NOT EXISTS (SELECT FROM fresh WHERE %5$s)
            )
            INSERT INTO defender.%2$I
            SELECT * FROM fresh EXCEPT SELECT * FROM defender.%2$I WHERE tenant_id = $1
            ON CONFLICT (%3$s) DO UPDATE SET %4$s',
            summary.name || '_now', summary.name, summary.key, summary.assignments, summary.same) USING summarised;
    END LOOP;
    -- incident_days ends today: an incident with a later date keeps the summaries from being current.
    UPDATE defender.summaries SET through = today, is_current = NOT EXISTS (
        SELECT FROM defender.incidents WHERE tenant_id = summarised AND greatest(created_time, resolved_at) >= today + 1)
    WHERE tenant_id = summarised;
END $$;

CREATE OR REPLACE VIEW reporting.incidents WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, t.name AS tenant_name, t.labels AS tenant_labels, i.incident_id, i.incident_name,
    i.severity, i.status, i.classification, i.determination, i.assigned_to, i.detection_source, i.tags,
    i.created_time, i.last_update_time, i.acknowledged_at, i.acknowledged_at_is_exact, i.resolved_at,
    i.resolved_at_is_exact,
    i.resolved_at IS NULL AND NOT i.is_merged AS is_open,
    i.is_merged,
    CASE WHEN i.redirect_incident_id <> i.incident_id THEN (
        -- UNION drops incidents already visited, so a loop terminates; its chain has no last incident.
        WITH RECURSIVE chain (incident_id) AS (
            SELECT i.redirect_incident_id
            UNION
            SELECT n.redirect_incident_id
            FROM chain c
            JOIN defender.incidents n ON n.tenant_id = i.tenant_id AND n.incident_id = c.incident_id
            WHERE n.redirect_incident_id <> n.incident_id
        )
        SELECT c.incident_id
        FROM chain c
        LEFT JOIN defender.incidents n ON n.tenant_id = i.tenant_id AND n.incident_id = c.incident_id
        WHERE n.redirect_incident_id IS NULL OR n.redirect_incident_id = n.incident_id
    ) END AS merged_into_incident_id,
    i.reopened_count,
    extract(epoch FROM coalesce(i.resolved_at, now()) - i.created_time)::double precision AS age_seconds,
    CASE WHEN i.acknowledged_at_is_exact
        THEN extract(epoch FROM i.acknowledged_at - i.created_time)::double precision END AS time_to_acknowledge_seconds,
    CASE WHEN i.resolved_at_is_exact
        THEN extract(epoch FROM i.resolved_at - i.created_time)::double precision END AS time_to_resolve_seconds,
    CASE WHEN s.is_current THEN i.alert_count ELSE (SELECT n.alert_count FROM defender.incident_counts_now n
        WHERE n.tenant_id = i.tenant_id AND n.incident_id = i.incident_id) END AS alert_count,
    CASE WHEN s.is_current THEN i.device_count ELSE (SELECT n.device_count FROM defender.incident_counts_now n
        WHERE n.tenant_id = i.tenant_id AND n.incident_id = i.incident_id) END AS device_count,
    CASE WHEN s.is_current THEN i.user_count ELSE (SELECT n.user_count FROM defender.incident_counts_now n
        WHERE n.tenant_id = i.tenant_id AND n.incident_id = i.incident_id) END AS user_count,
    coalesce(i.incident_uri,
        format('https://security.microsoft.com/incidents/%s?tid=%s', i.incident_id, i.tenant_id)) AS portal_url,
    i.description, i.summary, i.resolving_comment, i.last_modified_by, i.priority_score, i.system_tags,
    i.extra
FROM defender.incidents i
JOIN defender.tenants t USING (tenant_id)
LEFT JOIN defender.summaries s ON s.tenant_id = i.tenant_id
WHERE t.removed_at IS NULL;
COMMENT ON COLUMN reporting.incidents.extra IS 'Keys of the incident without a column of their own, as served; without nulls';

CREATE OR REPLACE VIEW reporting.alerts WITH (security_invoker = true, security_barrier = true) AS
SELECT a.tenant_id, t.name AS tenant_name, a.alert_id, a.incident_id, a.title, a.category, a.severity, a.status,
    a.service_source, a.detection_source, a.classification, a.determination, a.assigned_to, a.creation_time,
    a.last_updated_time, a.resolved_time, a.first_activity, a.last_activity, a.investigation_state, a.actor_name,
    a.threat_family_name, a.mitre_techniques,
    a.is_listed,
    (SELECT count(*) FROM defender.alert_devices d
        WHERE d.tenant_id = a.tenant_id AND d.alert_id = a.alert_id) AS device_count,
    (SELECT count(*) FROM defender.evidence e
        WHERE e.tenant_id = a.tenant_id AND e.alert_id = a.alert_id) AS evidence_count,
    a.alert_web_url, a.recommended_actions, a.product_name, a.alert_policy_id, a.categories, a.system_tags,
    a.devices_without_id, a.extra
FROM defender.alerts a
JOIN defender.tenants t USING (tenant_id)
WHERE t.removed_at IS NULL AND NOT a.incident_is_merged;
COMMENT ON COLUMN reporting.alerts.is_listed IS 'Whether the newest version of the incident still lists the alert';
COMMENT ON COLUMN reporting.alerts.devices_without_id IS 'Devices that the alert names without an id; they are in no count';
COMMENT ON COLUMN reporting.alerts.extra IS 'Keys of the alert without a column of their own, as served; without nulls';

-- An earlier release writes neither column.
UPDATE defender.schema_info SET oldest_supported = 9;
