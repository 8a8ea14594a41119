-- Answers for all customers at once: at a million incidents no dashboard can wait until they are counted.
--
-- defender.summarise(tenant) writes a tenant's summaries; the daemon calls it soon after a change. Triggers note, in the
-- transaction of each change, that the tenant's summaries are not current any more. The views take the summaries of
-- the tenants whose summaries are current and count the others anew: they are exact at every moment, and slow only while
-- many tenants are in between, as in a first synchronisation.

CREATE TABLE defender.summaries (
    tenant_id  uuid PRIMARY KEY,
    is_current boolean NOT NULL DEFAULT false,
    through    date
) WITH (fillfactor = 50);
COMMENT ON TABLE defender.summaries IS 'One row a tenant: whether its summaries are those of its incidents';
COMMENT ON COLUMN defender.summaries.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.summaries.is_current IS 'Whether nothing has changed since they were written';
COMMENT ON COLUMN defender.summaries.through IS 'The last day (UTC) in incident_days';

CREATE TABLE defender.incident_days (
    tenant_id uuid NOT NULL,
    day       date NOT NULL,
    severity  text NOT NULL,
    opened    bigint NOT NULL,
    resolved  bigint NOT NULL,
    backlog   bigint NOT NULL,
    PRIMARY KEY (tenant_id, day, severity)
);
CREATE INDEX incident_days_by_day ON defender.incident_days (day);
COMMENT ON TABLE defender.incident_days IS 'Summary for reporting.incident_trend_daily: one row a tenant, day and severity, from the first incident on';

CREATE TABLE defender.incident_months (
    tenant_id                          uuid NOT NULL,
    month                              date NOT NULL,
    acknowledged_count                 bigint NOT NULL,
    time_to_acknowledge_median_seconds double precision,
    time_to_acknowledge_p90_seconds    double precision,
    acknowledged_unobserved_count      bigint NOT NULL,
    resolved_count                     bigint NOT NULL,
    time_to_resolve_median_seconds     double precision,
    time_to_resolve_p90_seconds        double precision,
    resolved_unobserved_count          bigint NOT NULL,
    PRIMARY KEY (tenant_id, month)
);
COMMENT ON TABLE defender.incident_months IS 'Summary for reporting.mttr_by_tenant_month: one row a tenant and month';

CREATE TABLE defender.technique_months (
    tenant_id      uuid NOT NULL,
    month          date NOT NULL,
    technique      text NOT NULL,
    alert_count    bigint NOT NULL,
    incident_count bigint NOT NULL,
    PRIMARY KEY (tenant_id, month, technique)
);
CREATE INDEX technique_months_by_month ON defender.technique_months (month);
COMMENT ON TABLE defender.technique_months IS 'Summary for reporting.mitre_coverage: one row a tenant, month and technique';

CREATE TABLE defender.devices_open (
    tenant_id           uuid NOT NULL,
    device_id           text NOT NULL,
    open_incident_count bigint NOT NULL,
    alert_count         bigint NOT NULL,
    highest_severity    text NOT NULL,
    last_activity       timestamptz,
    PRIMARY KEY (tenant_id, device_id)
);
COMMENT ON TABLE defender.devices_open IS 'Summary for reporting.devices_at_risk: one row a device of an open incident';

CREATE TABLE defender.users_open (
    tenant_id           uuid NOT NULL,
    user_key            text NOT NULL,
    user_principal_name text,
    account_name        text,
    aad_user_id         text,
    open_incident_count bigint NOT NULL,
    alert_count         bigint NOT NULL,
    highest_severity    text NOT NULL,
    last_activity       timestamptz,
    PRIMARY KEY (tenant_id, user_key)
);
COMMENT ON TABLE defender.users_open IS 'Summary for reporting.users_at_risk: one row a user of an open incident';

ALTER TABLE defender.incidents
    ADD COLUMN alert_count  integer,
    ADD COLUMN device_count integer,
    ADD COLUMN user_count   integer;
COMMENT ON COLUMN defender.incidents.alert_count IS 'Alerts that its newest version lists, as of the tenant''s summaries';
COMMENT ON COLUMN defender.incidents.device_count IS 'Distinct devices that these alerts name, as of the tenant''s summaries';
COMMENT ON COLUMN defender.incidents.user_count IS 'Distinct users in the evidence of these alerts, as of the tenant''s summaries';

SELECT defender.protect(summary::regclass)
FROM unnest(ARRAY['defender.summaries', 'defender.incident_days', 'defender.incident_months',
    'defender.technique_months', 'defender.devices_open', 'defender.users_open']) AS summary;
GRANT SELECT, INSERT, UPDATE, DELETE ON defender.summaries, defender.incident_days, defender.incident_months,
    defender.technique_months, defender.devices_open, defender.users_open TO incident_sync_writer;
-- Which tenants are due, and nothing of what is summarised.
CREATE POLICY dispatcher ON defender.summaries FOR SELECT TO incident_sync_dispatcher USING (true);
GRANT SELECT ON defender.summaries TO incident_sync_dispatcher;
GRANT SELECT ON defender.summaries, defender.incident_days, defender.incident_months, defender.technique_months,
    defender.devices_open, defender.users_open TO incident_sync_tenant_reader;
-- Free text: see 0004_statistics.sql.
ALTER TABLE defender.technique_months ALTER COLUMN technique SET STATISTICS 0;
ALTER TABLE defender.devices_open ALTER COLUMN highest_severity SET STATISTICS 0;
ALTER TABLE defender.users_open
    ALTER COLUMN highest_severity SET STATISTICS 0,
    ALTER COLUMN user_key SET STATISTICS 0,
    ALTER COLUMN user_principal_name SET STATISTICS 0,
    ALTER COLUMN account_name SET STATISTICS 0,
    ALTER COLUMN aad_user_id SET STATISTICS 0;

-- The plain questions: what summaries are made from, and what the views ask for tenants without current ones.
CREATE VIEW defender.incident_days_now WITH (security_invoker = true, security_barrier = true) AS
SELECT s.tenant_id, d.day::date AS day, s.severity,
    CASE WHEN d.day = s.day THEN s.opened ELSE 0 END AS opened,
    CASE WHEN d.day = s.day THEN s.resolved ELSE 0 END AS resolved,
    s.backlog
FROM (
    -- Read once, and gaps filled from one day with news to the next.
    SELECT c.*, (sum(c.opened - c.resolved) OVER one_line)::bigint AS backlog,
        lead(c.day, 1, (now() AT TIME ZONE 'UTC')::date + 1) OVER one_line AS next_day
    FROM (
        SELECT i.tenant_id, coalesce(i.severity, 'UnSpecified') AS severity, (v.at AT TIME ZONE 'UTC')::date AS day,
            count(*) FILTER (WHERE v.opens) AS opened, count(*) FILTER (WHERE NOT v.opens) AS resolved
        FROM defender.incidents i
        CROSS JOIN LATERAL (VALUES (coalesce(i.created_time, i.first_synced_at), true),
            -- Nothing is resolved before it is opened, or a backlog would fall below zero.
            (CASE WHEN i.resolved_at IS NOT NULL
                THEN greatest(i.resolved_at, coalesce(i.created_time, i.first_synced_at)) END, false)) AS v(at, opens)
        WHERE v.at IS NOT NULL AND NOT i.is_merged
        GROUP BY 1, 2, 3
    ) c
    WINDOW one_line AS (PARTITION BY c.tenant_id, c.severity ORDER BY c.day)
) s
CROSS JOIN LATERAL generate_series(s.day::timestamp, s.next_day - interval '1 day', interval '1 day') AS d(day);

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

CREATE VIEW defender.technique_months_now WITH (security_invoker = true, security_barrier = true) AS
SELECT a.tenant_id, date_trunc('month', a.creation_time AT TIME ZONE 'UTC')::date AS month, u.technique,
    count(*) AS alert_count, count(DISTINCT a.incident_id) AS incident_count
FROM defender.alerts a
JOIN defender.incidents i ON i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id
CROSS JOIN LATERAL (SELECT DISTINCT technique FROM unnest(a.mitre_techniques) AS listed(technique)) u
WHERE NOT i.is_merged AND a.creation_time IS NOT NULL
GROUP BY 1, 2, 3;

CREATE FUNCTION defender.severity_rank(severity text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE severity WHEN 'High' THEN 4 WHEN 'Medium' THEN 3 WHEN 'Low' THEN 2 WHEN 'Informational' THEN 1 ELSE 0 END $$;
COMMENT ON FUNCTION defender.severity_rank IS 'Severities in their order';
CREATE FUNCTION defender.severity_of_rank(rank integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT (ARRAY['UnSpecified', 'Informational', 'Low', 'Medium', 'High'])[rank + 1] $$;
COMMENT ON FUNCTION defender.severity_of_rank IS 'The severity with this rank';
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

COMMENT ON VIEW defender.incident_days_now IS 'incident_days as they would be written now';
COMMENT ON VIEW defender.incident_months_now IS 'incident_months as they would be written now';
COMMENT ON VIEW defender.technique_months_now IS 'technique_months as they would be written now';
COMMENT ON VIEW defender.devices_open_now IS 'devices_open as they would be written now';
COMMENT ON VIEW defender.users_open_now IS 'users_open as they would be written now';
COMMENT ON VIEW defender.incident_counts_now IS 'The counts of incidents as they would be written now';
GRANT SELECT ON defender.incident_days_now, defender.incident_months_now, defender.technique_months_now,
    defender.devices_open_now, defender.users_open_now, defender.incident_counts_now
    TO incident_sync_writer, incident_sync_reader, incident_sync_tenant_reader;

-- Writes what has changed of a tenant's summaries. What is longer than an index entry fails it; then the views go on counting.
CREATE FUNCTION defender.summarise(summarised uuid) RETURNS void
LANGUAGE plpgsql SET jit = off
AS $$
DECLARE
    today constant date := (now() AT TIME ZONE 'UTC')::date;
    summary record;
BEGIN
    INSERT INTO defender.summaries (tenant_id) VALUES (summarised) ON CONFLICT DO NOTHING;
    -- Waits for those who are changing the tenant's rows; who comes later waits for us.
    PERFORM FROM defender.summaries WHERE tenant_id = summarised FOR UPDATE;
    IF EXISTS (SELECT FROM defender.summaries WHERE tenant_id = summarised AND is_current) THEN
        RETURN;
    END IF;
    UPDATE defender.incidents i
    SET alert_count = n.alert_count, device_count = n.device_count, user_count = n.user_count
    FROM defender.incident_counts_now n
    WHERE i.tenant_id = summarised AND n.tenant_id = summarised AND i.incident_id = n.incident_id
        AND (i.alert_count, i.device_count, i.user_count) IS DISTINCT FROM (n.alert_count, n.device_count, n.user_count);
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
    -- Days that are yet to come are not in incident_days: they would be missing when they have come.
    UPDATE defender.summaries SET through = today, is_current = NOT EXISTS (
        SELECT FROM defender.incidents WHERE tenant_id = summarised AND greatest(created_time, resolved_at) >= today + 1)
    WHERE tenant_id = summarised;
END $$;
COMMENT ON FUNCTION defender.summarise IS 'Brings the summaries of a tenant up to date';
REVOKE EXECUTE ON FUNCTION defender.summarise FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.summarise TO incident_sync_writer;

CREATE FUNCTION defender.note_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    -- Who has set no tenant may have changed the rows of any.
    changed constant uuid := nullif(current_setting('incident_sync.tenant_id', true), '')::uuid;
BEGIN
    IF changed IS NULL THEN
        INSERT INTO defender.summaries (tenant_id) SELECT tenant_id FROM defender.tenants ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO defender.summaries (tenant_id) VALUES (changed) ON CONFLICT DO NOTHING;
    END IF;
    UPDATE defender.summaries SET is_current = false WHERE is_current AND (changed IS NULL OR tenant_id = changed);
    -- Somebody who writes the summaries at this moment must wait until we have committed.
    PERFORM FROM defender.summaries WHERE changed IS NULL OR tenant_id = changed FOR KEY SHARE;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.note_change IS 'Notes that the summaries of a tenant are not current any more';
REVOKE EXECUTE ON FUNCTION defender.note_change FROM PUBLIC;
-- Before a statement locks its rows: summarise locks first the tenant and then rows of incidents too.
CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON defender.incidents
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_change();
CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON defender.alerts
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_change();
CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON defender.alert_devices
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_change();
CREATE TRIGGER note_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON defender.evidence
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_change();

-- Tenants whose summaries are not current are few: OFFSET 0 asks for one after the other, where a join would count all.
CREATE OR REPLACE VIEW reporting.incident_trend_daily WITH (security_invoker = true, security_barrier = true) AS
SELECT d.tenant_id, t.name AS tenant_name, d.severity, d.day, d.opened, d.resolved, d.backlog
FROM (
    SELECT d.* FROM defender.summaries s JOIN defender.incident_days d ON d.tenant_id = s.tenant_id WHERE s.is_current
    UNION ALL
    -- The days since, on which nothing has happened.
    SELECT d.tenant_id, later.day::date, d.severity, 0, 0, d.backlog
    FROM defender.summaries s
    JOIN defender.incident_days d ON d.tenant_id = s.tenant_id AND d.day = s.through
    CROSS JOIN LATERAL generate_series(s.through + 1, (now() AT TIME ZONE 'UTC')::date, interval '1 day') AS later(day)
    WHERE s.is_current
    UNION ALL
    SELECT n.* FROM defender.tenants t LEFT JOIN defender.summaries s ON s.tenant_id = t.tenant_id
    CROSS JOIN LATERAL (SELECT * FROM defender.incident_days_now WHERE tenant_id = t.tenant_id OFFSET 0) n
    WHERE s.is_current IS NOT TRUE
) d
JOIN defender.tenants t ON t.tenant_id = d.tenant_id
WHERE t.removed_at IS NULL;

CREATE OR REPLACE VIEW reporting.mttr_by_tenant_month WITH (security_invoker = true, security_barrier = true) AS
SELECT m.tenant_id, t.name AS tenant_name, m.month, m.acknowledged_count, m.time_to_acknowledge_median_seconds,
    m.time_to_acknowledge_p90_seconds, m.acknowledged_unobserved_count, m.resolved_count,
    m.time_to_resolve_median_seconds, m.time_to_resolve_p90_seconds, m.resolved_unobserved_count
FROM (
    SELECT m.* FROM defender.summaries s JOIN defender.incident_months m ON m.tenant_id = s.tenant_id WHERE s.is_current
    UNION ALL
    SELECT n.* FROM defender.tenants t LEFT JOIN defender.summaries s ON s.tenant_id = t.tenant_id
    CROSS JOIN LATERAL (SELECT * FROM defender.incident_months_now WHERE tenant_id = t.tenant_id OFFSET 0) n
    WHERE s.is_current IS NOT TRUE
) m
JOIN defender.tenants t ON t.tenant_id = m.tenant_id
WHERE t.removed_at IS NULL;

CREATE OR REPLACE VIEW reporting.mitre_coverage WITH (security_invoker = true, security_barrier = true) AS
SELECT c.tenant_id, t.name AS tenant_name, c.technique, c.month, c.alert_count, c.incident_count
FROM (
    SELECT m.* FROM defender.summaries s JOIN defender.technique_months m ON m.tenant_id = s.tenant_id WHERE s.is_current
    UNION ALL
    SELECT n.* FROM defender.tenants t LEFT JOIN defender.summaries s ON s.tenant_id = t.tenant_id
    CROSS JOIN LATERAL (SELECT * FROM defender.technique_months_now WHERE tenant_id = t.tenant_id OFFSET 0) n
    WHERE s.is_current IS NOT TRUE
) c
JOIN defender.tenants t ON t.tenant_id = c.tenant_id
WHERE t.removed_at IS NULL;

CREATE OR REPLACE VIEW reporting.devices_at_risk WITH (security_invoker = true, security_barrier = true) AS
SELECT r.tenant_id, t.name AS tenant_name, r.device_id, d.device_dns_name, d.os_platform, d.health_status,
    d.risk_score, d.rbac_group_name, r.open_incident_count, r.alert_count, r.highest_severity, r.last_activity
FROM (
    SELECT o.* FROM defender.summaries s JOIN defender.devices_open o ON o.tenant_id = s.tenant_id WHERE s.is_current
    UNION ALL
    SELECT n.* FROM defender.tenants t LEFT JOIN defender.summaries s ON s.tenant_id = t.tenant_id
    CROSS JOIN LATERAL (SELECT * FROM defender.devices_open_now WHERE tenant_id = t.tenant_id OFFSET 0) n
    WHERE s.is_current IS NOT TRUE
) r
JOIN defender.tenants t ON t.tenant_id = r.tenant_id
LEFT JOIN defender.devices d ON d.tenant_id = r.tenant_id AND d.device_id = r.device_id
WHERE t.removed_at IS NULL;

CREATE OR REPLACE VIEW reporting.users_at_risk WITH (security_invoker = true, security_barrier = true) AS
SELECT u.tenant_id, t.name AS tenant_name, u.user_key, u.user_principal_name, u.account_name, u.aad_user_id,
    u.open_incident_count, u.alert_count, u.highest_severity, u.last_activity
FROM (
    SELECT o.* FROM defender.summaries s JOIN defender.users_open o ON o.tenant_id = s.tenant_id WHERE s.is_current
    UNION ALL
    SELECT n.* FROM defender.tenants t LEFT JOIN defender.summaries s ON s.tenant_id = t.tenant_id
    CROSS JOIN LATERAL (SELECT * FROM defender.users_open_now WHERE tenant_id = t.tenant_id OFFSET 0) n
    WHERE s.is_current IS NOT TRUE
) u
JOIN defender.tenants t ON t.tenant_id = u.tenant_id
WHERE t.removed_at IS NULL;

CREATE OR REPLACE VIEW reporting.incidents WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, t.name AS tenant_name, t.labels AS tenant_labels, i.incident_id, i.incident_name,
    i.severity, i.status, i.classification, i.determination, i.assigned_to, i.detection_source, i.tags,
    i.created_time, i.last_update_time, i.acknowledged_at, i.acknowledged_at_is_exact, i.resolved_at,
    i.resolved_at_is_exact,
    i.resolved_at IS NULL AND NOT i.is_merged AS is_open,
    i.is_merged,
    CASE WHEN i.redirect_incident_id <> i.incident_id THEN (
        -- UNION drops what was met before, so that a loop ends: then no link of the chain is an end.
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
        format('https://security.microsoft.com/incidents/%s?tid=%s', i.incident_id, i.tenant_id)) AS portal_url
FROM defender.incidents i
JOIN defender.tenants t USING (tenant_id)
LEFT JOIN defender.summaries s ON s.tenant_id = i.tenant_id
WHERE t.removed_at IS NULL;

-- A column of a summary means what the column of the view means that shows it.
DO $$
DECLARE
    described record;
BEGIN
    FOR described IN
        SELECT s.name, a.attname, col_description(pair.shown::regclass, r.attnum) AS meaning
        FROM (VALUES ('incident_days', 'reporting.incident_trend_daily'), ('incident_months', 'reporting.mttr_by_tenant_month'),
            ('technique_months', 'reporting.mitre_coverage'), ('devices_open', 'reporting.devices_at_risk'),
            ('users_open', 'reporting.users_at_risk'), ('incident_counts', 'reporting.incidents')) AS pair(summary, shown)
        CROSS JOIN LATERAL (VALUES ('defender.' || summary), ('defender.' || summary || '_now')) AS s(name)
        JOIN pg_attribute a ON a.attrelid = to_regclass(s.name) AND a.attnum > 0
        JOIN pg_attribute r ON r.attrelid = pair.shown::regclass AND r.attname = a.attname
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', described.name, described.attname, described.meaning);
    END LOOP;
END $$;
