-- Summaries for reports on all customers: counting a million incidents takes too long for a dashboard.
--
-- defender.summarise(tenant) writes a tenant's summaries; the daemon calls it soon after a change. Triggers note, in the
-- transaction of each change, that the tenant's summaries are no longer current. The views read the summaries of
-- tenants whose summaries are current and count for the others: they are always exact, and slow only while many tenants have
-- no current summaries, as during a first sync.

-- Plain queries: the source of the summaries, and of the views for tenants without current summaries.
CREATE VIEW defender.incident_days_now WITH (security_invoker = true, security_barrier = true) AS
SELECT s.tenant_id, d.day::date AS day, s.severity,
    CASE WHEN d.day = s.day THEN s.opened ELSE 0 END AS opened,
    CASE WHEN d.day = s.day THEN s.resolved ELSE 0 END AS resolved,
    s.backlog
FROM (
    -- Reads the incidents once and fills the days between two days with changes.
    SELECT c.*, (sum(c.opened - c.resolved) OVER one_line)::bigint AS backlog,
        lead(c.day, 1, (now() AT TIME ZONE 'UTC')::date + 1) OVER one_line AS next_day
    FROM (
        SELECT i.tenant_id, coalesce(i.severity, 'UnSpecified') AS severity, (v.at AT TIME ZONE 'UTC')::date AS day,
            count(*) FILTER (WHERE v.opens) AS opened, count(*) FILTER (WHERE NOT v.opens) AS resolved
        FROM defender.incidents i
        CROSS JOIN LATERAL (VALUES (coalesce(i.created_time, i.first_synced_at), true),
            -- Never resolved before it is opened, or the backlog would be negative.
            (CASE WHEN i.resolved_at IS NOT NULL
                THEN greatest(i.resolved_at, coalesce(i.created_time, i.first_synced_at)) END, false)) AS v(at, opens)
        WHERE v.at IS NOT NULL AND NOT i.is_merged
        GROUP BY 1, 2, 3
    ) c
    WINDOW one_line AS (PARTITION BY c.tenant_id, c.severity ORDER BY c.day)
) s
CROSS JOIN LATERAL generate_series(s.day::timestamp, s.next_day - interval '1 day', interval '1 day') AS d(day);
COMMENT ON VIEW defender.incident_days_now IS 'incident_days computed from the current data';
COMMENT ON COLUMN defender.incident_days_now.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.incident_days_now.day IS 'Day (UTC)';
COMMENT ON COLUMN defender.incident_days_now.severity IS 'High, Medium, Low, Informational or UnSpecified; current value';
COMMENT ON COLUMN defender.incident_days_now.opened IS 'Incidents created on the day';
COMMENT ON COLUMN defender.incident_days_now.resolved IS 'Incidents resolved on the day';
COMMENT ON COLUMN defender.incident_days_now.backlog IS 'Incidents open at the end of the day; for today, open now';

CREATE VIEW defender.incident_months_now WITH (security_invoker = true, security_barrier = true) AS
SELECT m.tenant_id, m.month,
    count(*) FILTER (WHERE m.kind = 'acknowledged' AND m.is_exact) AS acknowledged_count,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY m.seconds) FILTER (WHERE m.kind = 'acknowledged' AND m.is_exact)
        AS time_to_acknowledge_median_seconds,
    percentile_cont(0.9) WITHIN GROUP (ORDER BY m.seconds) FILTER (WHERE m.kind = 'acknowledged' AND m.is_exact)
        AS time_to_acknowledge_p90_seconds,
    count(*) FILTER (WHERE m.kind = 'acknowledged' AND NOT m.is_exact) AS acknowledged_unobserved_count,
    count(*) FILTER (WHERE m.kind = 'resolved' AND m.is_exact) AS resolved_count,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY m.seconds) FILTER (WHERE m.kind = 'resolved' AND m.is_exact)
        AS time_to_resolve_median_seconds,
    percentile_cont(0.9) WITHIN GROUP (ORDER BY m.seconds) FILTER (WHERE m.kind = 'resolved' AND m.is_exact)
        AS time_to_resolve_p90_seconds,
    count(*) FILTER (WHERE m.kind = 'resolved' AND NOT m.is_exact) AS resolved_unobserved_count
FROM (
    SELECT i.tenant_id, v.kind, v.is_exact, date_trunc('month', v.at AT TIME ZONE 'UTC')::date AS month,
        extract(epoch FROM v.at - i.created_time)::double precision AS seconds
    FROM defender.incidents i
    CROSS JOIN LATERAL (VALUES ('acknowledged', i.acknowledged_at, i.acknowledged_at_is_exact),
        ('resolved', i.resolved_at, i.resolved_at_is_exact)) AS v(kind, at, is_exact)
    WHERE v.at IS NOT NULL AND NOT i.is_merged
) m
GROUP BY m.tenant_id, m.month;
COMMENT ON VIEW defender.incident_months_now IS 'incident_months computed from the current data';
COMMENT ON COLUMN defender.incident_months_now.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.incident_months_now.month IS 'First day of the month (UTC)';
COMMENT ON COLUMN defender.incident_months_now.acknowledged_count IS 'Incidents acknowledged in the month at an exactly known time';
COMMENT ON COLUMN defender.incident_months_now.time_to_acknowledge_median_seconds IS 'Median of time_to_acknowledge_seconds of these incidents';
COMMENT ON COLUMN defender.incident_months_now.time_to_acknowledge_p90_seconds IS '90th percentile of time_to_acknowledge_seconds of these incidents';
COMMENT ON COLUMN defender.incident_months_now.acknowledged_unobserved_count IS 'Incidents already acknowledged when first stored; in no median';
COMMENT ON COLUMN defender.incident_months_now.resolved_count IS 'Incidents resolved in the month at an exactly known time';
COMMENT ON COLUMN defender.incident_months_now.time_to_resolve_median_seconds IS 'Median of time_to_resolve_seconds of these incidents';
COMMENT ON COLUMN defender.incident_months_now.time_to_resolve_p90_seconds IS '90th percentile of time_to_resolve_seconds of these incidents';
COMMENT ON COLUMN defender.incident_months_now.resolved_unobserved_count IS 'Incidents already resolved when first stored; in no median';

CREATE VIEW defender.technique_months_now WITH (security_invoker = true, security_barrier = true) AS
SELECT a.tenant_id, date_trunc('month', a.creation_time AT TIME ZONE 'UTC')::date AS month, u.technique,
    count(*) AS alert_count, count(DISTINCT a.incident_id) AS incident_count
FROM defender.alerts a
JOIN defender.incidents i ON i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id
CROSS JOIN LATERAL (SELECT DISTINCT technique FROM unnest(a.mitre_techniques) AS listed(technique)) u
WHERE NOT i.is_merged AND a.creation_time IS NOT NULL
GROUP BY 1, 2, 3;
COMMENT ON VIEW defender.technique_months_now IS 'technique_months computed from the current data';
COMMENT ON COLUMN defender.technique_months_now.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.technique_months_now.month IS 'First day of the month (UTC)';
COMMENT ON COLUMN defender.technique_months_now.technique IS 'MITRE ATT&CK technique';
COMMENT ON COLUMN defender.technique_months_now.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN defender.technique_months_now.incident_count IS 'Distinct incidents of these alerts';

CREATE FUNCTION defender.severity_rank(severity text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE severity WHEN 'High' THEN 4 WHEN 'Medium' THEN 3 WHEN 'Low' THEN 2 WHEN 'Informational' THEN 1 ELSE 0 END;
COMMENT ON FUNCTION defender.severity_rank IS 'Rank of a severity, for comparison';
CREATE FUNCTION defender.severity_of_rank(rank integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY['UnSpecified', 'Informational', 'Low', 'Medium', 'High'])[rank + 1];
COMMENT ON FUNCTION defender.severity_of_rank IS 'Severity with this rank';
REVOKE EXECUTE ON FUNCTION defender.severity_rank, defender.severity_of_rank FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.severity_rank, defender.severity_of_rank
    TO incident_sync_writer, incident_sync_reader, incident_sync_tenant_reader;

CREATE VIEW defender.devices_open_now WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, x.device_id, count(DISTINCT i.incident_id) AS open_incident_count, count(*) AS alert_count,
    defender.severity_of_rank(max(defender.severity_rank(i.severity))) AS highest_severity,
    max(a.last_activity) AS last_activity
FROM defender.incidents i
JOIN defender.alerts a ON a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.last_seen >= i.last_update_time
JOIN defender.alert_devices x ON x.tenant_id = a.tenant_id AND x.alert_id = a.alert_id
WHERE i.resolved_at IS NULL AND NOT i.is_merged
GROUP BY i.tenant_id, x.device_id;
COMMENT ON VIEW defender.devices_open_now IS 'devices_open computed from the current data';
COMMENT ON COLUMN defender.devices_open_now.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.devices_open_now.device_id IS 'Microsoft''s id of the device (mdatpDeviceId)';
COMMENT ON COLUMN defender.devices_open_now.open_incident_count IS 'Distinct open incidents';
COMMENT ON COLUMN defender.devices_open_now.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN defender.devices_open_now.highest_severity IS 'Highest severity of these incidents';
COMMENT ON COLUMN defender.devices_open_now.last_activity IS 'Time of the last activity of these alerts';

CREATE VIEW defender.users_open_now WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, u.user_key, max(e.user_principal_name) AS user_principal_name,
    max(e.account_name) AS account_name, max(e.aad_user_id) AS aad_user_id,
    count(DISTINCT i.incident_id) AS open_incident_count, count(DISTINCT a.alert_id) AS alert_count,
    defender.severity_of_rank(max(defender.severity_rank(i.severity))) AS highest_severity,
    max(a.last_activity) AS last_activity
FROM defender.incidents i
JOIN defender.alerts a ON a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.last_seen >= i.last_update_time
JOIN defender.evidence e ON e.tenant_id = a.tenant_id AND e.alert_id = a.alert_id
CROSS JOIN LATERAL (SELECT lower(coalesce(e.user_principal_name, e.aad_user_id, e.user_sid, e.account_name))) AS u(user_key)
WHERE i.resolved_at IS NULL AND NOT i.is_merged AND lower(e.entity_type) = 'user' AND u.user_key IS NOT NULL
GROUP BY i.tenant_id, u.user_key;
COMMENT ON VIEW defender.users_open_now IS 'users_open computed from the current data';
COMMENT ON COLUMN defender.users_open_now.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.users_open_now.user_key IS 'Lower-case sign-in name, Entra object id, SID or account name: the first of these in the evidence. A user with different ones in several alerts has several rows';
COMMENT ON COLUMN defender.users_open_now.user_principal_name IS 'The user''s sign-in name';
COMMENT ON COLUMN defender.users_open_now.account_name IS 'Account name without domain';
COMMENT ON COLUMN defender.users_open_now.aad_user_id IS 'Entra object id of the user';
COMMENT ON COLUMN defender.users_open_now.open_incident_count IS 'Distinct open incidents';
COMMENT ON COLUMN defender.users_open_now.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN defender.users_open_now.highest_severity IS 'Highest severity of these incidents';
COMMENT ON COLUMN defender.users_open_now.last_activity IS 'Time of the last activity of these alerts';

CREATE VIEW defender.incident_counts_now WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, i.incident_id,
    (SELECT count(*) FROM defender.alerts a
        WHERE a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.last_seen >= i.last_update_time
    ) AS alert_count,
    (SELECT count(DISTINCT d.device_id) FROM defender.alerts a JOIN defender.alert_devices d USING (tenant_id, alert_id)
        WHERE a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.last_seen >= i.last_update_time
    ) AS device_count,
    (SELECT count(DISTINCT lower(coalesce(e.user_principal_name, e.aad_user_id, e.user_sid, e.account_name)))
        FROM defender.alerts a JOIN defender.evidence e USING (tenant_id, alert_id)
        WHERE a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id AND a.last_seen >= i.last_update_time
            AND lower(e.entity_type) = 'user'
    ) AS user_count
FROM defender.incidents i;
COMMENT ON VIEW defender.incident_counts_now IS 'Counts of each incident computed from the current data';
COMMENT ON COLUMN defender.incident_counts_now.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.incident_counts_now.incident_id IS 'Microsoft''s number of the incident, unique within its tenant only';
COMMENT ON COLUMN defender.incident_counts_now.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN defender.incident_counts_now.device_count IS 'Distinct devices of these alerts';
COMMENT ON COLUMN defender.incident_counts_now.user_count IS 'Distinct users in the evidence of these alerts';

GRANT SELECT ON defender.incident_days_now, defender.incident_months_now, defender.technique_months_now,
    defender.devices_open_now, defender.users_open_now, defender.incident_counts_now
    TO incident_sync_writer, incident_sync_reader, incident_sync_tenant_reader;

-- Writes the changed rows of a tenant's summaries. Fails if a text is longer than an index entry; the views then keep counting.
-- Without nested loops: in tables without statistics, as during a first sync, the planner expects one row of a tenant and
-- would read all evidence of the tenant again for each alert. Hash joins read each table once.
CREATE FUNCTION defender.summarise(summarised uuid) RETURNS void
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
        WHERE i.tenant_id = summarised AND a.last_seen >= i.last_update_time
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
COMMENT ON FUNCTION defender.summarise IS 'Updates the summaries of a tenant';
REVOKE EXECUTE ON FUNCTION defender.summarise FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.summarise TO incident_sync_writer;

-- A transaction that changes a tenant's rows while its summaries are being written waits before it looks whether they are
-- current: after the wait they are, and one that looked first would leave them so.
CREATE FUNCTION defender.note_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Without a tenant in the setting, the rows of any tenant may have changed.
    changed constant uuid := nullif(current_setting('incident_sync.tenant_id', true), '')::uuid;
BEGIN
    IF changed IS NULL THEN
        INSERT INTO defender.summaries (tenant_id) SELECT tenant_id FROM defender.tenants ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO defender.summaries (tenant_id) VALUES (changed) ON CONFLICT DO NOTHING;
    END IF;
    -- A concurrent summarise must wait until this transaction has committed, or this one waits for it.
    PERFORM FROM defender.summaries WHERE changed IS NULL OR tenant_id = changed FOR KEY SHARE;
    UPDATE defender.summaries SET is_current = false WHERE is_current AND (changed IS NULL OR tenant_id = changed);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.note_change IS 'Marks the summaries of a tenant as not current';
REVOKE EXECUTE ON FUNCTION defender.note_change FROM PUBLIC;
-- BEFORE, because summarise too locks first the tenant and then rows of incidents.
CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON defender.incidents
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_change();
CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON defender.alerts
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_change();
CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON defender.alert_devices
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_change();
CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON defender.evidence
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_change();
