-- What analysts read: views, the milestones of an incident that they show, and the two indexes that they need.
--
-- Every view runs with its reader's own rights (row-level security holds) and behind a barrier, past which only leakproof
-- conditions travel: =, <, > on uuid, text, bigint, date, timestamptz and boolean columns do, LIKE and JSON operators do not and are applied
-- to what the others left. Counts are scalar subqueries: the planner drops those that a query does not ask for, which it
-- cannot do with a join.

-- When an incident was taken on and resolved stands in its row: at a million incidents, looking it up in incident_changes
-- for every one of them is what no dashboard can wait for.
ALTER TABLE defender.incidents
    ADD COLUMN acknowledged_at          timestamptz,
    ADD COLUMN acknowledged_at_is_exact boolean NOT NULL DEFAULT false,
    ADD COLUMN resolved_at              timestamptz,
    ADD COLUMN resolved_at_is_exact     boolean NOT NULL DEFAULT false,
    ADD COLUMN reopened_count           integer NOT NULL DEFAULT 0,
    ADD COLUMN is_merged                boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN defender.incidents.acknowledged_at IS 'lastUpdateTime of the first version that we saw in which somebody had taken the incident on: a status other than Active, New and Redirected, or assigned to anybody but Automation';
COMMENT ON COLUMN defender.incidents.acknowledged_at_is_exact IS 'Whether we saw the incident before it was acknowledged; if not, acknowledged_at is the latest time at which that can have happened';
COMMENT ON COLUMN defender.incidents.resolved_at IS 'lastUpdateTime of the version that showed the incident resolved; of the last such change, and NULL again when it is reopened';
COMMENT ON COLUMN defender.incidents.resolved_at_is_exact IS 'Whether we saw the incident before it was resolved; if not, resolved_at is the latest time at which that can have happened';
COMMENT ON COLUMN defender.incidents.is_merged IS 'Whether the incident became part of another one: it is redirected to another id, or its status is Redirected';
COMMENT ON COLUMN defender.incidents.reopened_count IS 'How often a resolved incident was seen open again, merges not counted';

CREATE FUNCTION defender.is_acknowledged(status text, assigned_to text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce(status NOT IN ('Active', 'New', 'Redirected'), false)
        OR coalesce(lower(assigned_to) NOT IN ('', 'automation'), false)
$$;
COMMENT ON FUNCTION defender.is_acknowledged IS 'Whether an incident in this state has been taken on by somebody';
REVOKE EXECUTE ON FUNCTION defender.is_acknowledged FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.is_acknowledged TO incident_sync_writer;

-- Rows that were there before this migration, from their changes. What held at first sight held at the latest when the
-- incident was first synchronised, and not after its newest version. The tables' owner is stopped by the policies too.
ALTER TABLE defender.incidents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE defender.incident_changes NO FORCE ROW LEVEL SECURITY;
UPDATE defender.incidents SET is_merged = true WHERE redirect_incident_id <> incident_id OR status = 'Redirected';
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
WHERE i.tenant_id = m.tenant_id AND i.incident_id = m.incident_id;
ALTER TABLE defender.incident_changes FORCE ROW LEVEL SECURITY;
ALTER TABLE defender.incidents FORCE ROW LEVEL SECURITY;

-- A trigger, so that an older binary keeps the milestones too. It sees the same transitions as incident_changes: both
-- go by versions that are accepted as newer. A status that the API left out says nothing about a resolution.
CREATE FUNCTION defender.note_milestones() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    -- An incident that names itself is none that was merged.
    NEW.is_merged := coalesce(NEW.redirect_incident_id <> NEW.incident_id, false)
        OR coalesce(NEW.status = 'Redirected', false);
    IF NEW.acknowledged_at IS NULL AND defender.is_acknowledged(NEW.status, NEW.assigned_to) THEN
        NEW.acknowledged_at := NEW.last_update_time;
        NEW.acknowledged_at_is_exact := TG_OP = 'UPDATE';
    END IF;
    IF NEW.status = 'Resolved' AND NEW.resolved_at IS NULL THEN
        NEW.resolved_at := NEW.last_update_time;
        NEW.resolved_at_is_exact := TG_OP = 'UPDATE';
    ELSIF NEW.status NOT IN ('Resolved', 'Redirected') AND NEW.resolved_at IS NOT NULL THEN
        NEW.resolved_at := NULL;
        NEW.resolved_at_is_exact := false;
        NEW.reopened_count := NEW.reopened_count + 1;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION defender.note_milestones IS 'Keeps is_merged, acknowledged_at, resolved_at and reopened_count of an incident';
REVOKE EXECUTE ON FUNCTION defender.note_milestones FROM PUBLIC;
CREATE TRIGGER note_milestones BEFORE INSERT OR UPDATE ON defender.incidents
    FOR EACH ROW EXECUTE FUNCTION defender.note_milestones();

CREATE INDEX incidents_open ON defender.incidents (tenant_id, incident_id) WHERE resolved_at IS NULL AND NOT is_merged;
CREATE INDEX alerts_by_incident ON defender.alerts (tenant_id, incident_id);

CREATE OR REPLACE VIEW reporting.tenant_freshness WITH (security_invoker = true, security_barrier = true) AS
SELECT t.tenant_id, t.name AS tenant_name, t.labels, t.enabled, s.watermark AS data_as_of,
    s.last_success_at, extract(epoch FROM now() - s.last_success_at)::double precision AS lag_seconds,
    s.backfilled_at IS NOT NULL AS history_complete, s.consecutive_failures, s.error_class, s.error_message,
    s.who_must_act,
    CASE WHEN s.last_attempt_at IS NULL THEN 'never run' WHEN s.parked_reason IS NOT NULL THEN 'parked'
        WHEN s.consecutive_failures > 0 THEN 'failed' ELSE 'ok' END AS last_outcome,
    (SELECT count(*) FROM defender.sync_gaps h WHERE h.tenant_id = t.tenant_id) AS gaps
FROM defender.tenants t
LEFT JOIN defender.sync_state s USING (tenant_id)
WHERE t.removed_at IS NULL;

CREATE VIEW reporting.incidents WITH (security_invoker = true, security_barrier = true) AS
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
    ) AS user_count,
    coalesce(i.incident_uri,
        format('https://security.microsoft.com/incidents/%s?tid=%s', i.incident_id, i.tenant_id)) AS portal_url
FROM defender.incidents i
JOIN defender.tenants t USING (tenant_id)
WHERE t.removed_at IS NULL;

CREATE VIEW reporting.open_incidents WITH (security_invoker = true, security_barrier = true) AS
SELECT v.tenant_id, v.tenant_name, v.tenant_labels, v.incident_id, v.incident_name, v.severity, v.status,
    v.classification, v.determination, v.assigned_to, v.detection_source, v.tags, v.created_time, v.last_update_time,
    v.acknowledged_at, v.acknowledged_at_is_exact, v.reopened_count, v.age_seconds, v.time_to_acknowledge_seconds,
    v.alert_count, v.device_count, v.user_count, v.portal_url
FROM reporting.incidents v
WHERE v.resolved_at IS NULL AND NOT v.is_merged;

CREATE VIEW reporting.alerts WITH (security_invoker = true, security_barrier = true) AS
SELECT a.tenant_id, t.name AS tenant_name, a.alert_id, a.incident_id, a.title, a.category, a.severity, a.status,
    a.service_source, a.detection_source, a.classification, a.determination, a.assigned_to, a.creation_time,
    a.last_updated_time, a.resolved_time, a.first_activity, a.last_activity, a.investigation_state, a.actor_name,
    a.threat_family_name, a.mitre_techniques,
    a.last_seen >= i.last_update_time AS is_listed,
    (SELECT count(*) FROM defender.alert_devices d
        WHERE d.tenant_id = a.tenant_id AND d.alert_id = a.alert_id) AS device_count,
    (SELECT count(*) FROM defender.evidence e
        WHERE e.tenant_id = a.tenant_id AND e.alert_id = a.alert_id) AS evidence_count
FROM defender.alerts a
JOIN defender.tenants t USING (tenant_id)
JOIN defender.incidents i ON i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id
WHERE t.removed_at IS NULL AND NOT i.is_merged;

CREATE VIEW reporting.devices_at_risk WITH (security_invoker = true, security_barrier = true) AS
SELECT r.tenant_id, t.name AS tenant_name, r.device_id, d.device_dns_name, d.os_platform, d.health_status,
    d.risk_score, d.rbac_group_name, r.open_incident_count, r.alert_count,
    CASE r.highest WHEN 4 THEN 'High' WHEN 3 THEN 'Medium' WHEN 2 THEN 'Low' WHEN 1 THEN 'Informational'
        ELSE 'UnSpecified' END AS highest_severity, r.last_activity
FROM (
    SELECT i.tenant_id, x.device_id, count(DISTINCT i.incident_id) AS open_incident_count, count(*) AS alert_count,
        max(CASE i.severity WHEN 'High' THEN 4 WHEN 'Medium' THEN 3 WHEN 'Low' THEN 2 WHEN 'Informational' THEN 1
            ELSE 0 END) AS highest, max(a.last_activity) AS last_activity
    FROM defender.incidents i
    JOIN defender.alerts a ON a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id
        AND a.last_seen >= i.last_update_time
    JOIN defender.alert_devices x ON x.tenant_id = a.tenant_id AND x.alert_id = a.alert_id
    WHERE i.resolved_at IS NULL AND NOT i.is_merged
    GROUP BY i.tenant_id, x.device_id
) r
JOIN defender.tenants t ON t.tenant_id = r.tenant_id
LEFT JOIN defender.devices d ON d.tenant_id = r.tenant_id AND d.device_id = r.device_id
WHERE t.removed_at IS NULL;

CREATE VIEW reporting.mttr_by_tenant_month WITH (security_invoker = true, security_barrier = true) AS
SELECT m.tenant_id, t.name AS tenant_name, m.month,
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
JOIN defender.tenants t ON t.tenant_id = m.tenant_id
WHERE t.removed_at IS NULL
GROUP BY m.tenant_id, t.name, m.month;

-- Read once and gaps filled from one day with news to the next. Only conditions on the partition travel below a window:
-- hence the tenant's name in it.
CREATE VIEW reporting.incident_trend_daily WITH (security_invoker = true, security_barrier = true) AS
SELECT s.tenant_id, s.tenant_name, s.severity, d.day::date AS day,
    CASE WHEN d.day = s.day THEN s.opened ELSE 0 END AS opened,
    CASE WHEN d.day = s.day THEN s.resolved ELSE 0 END AS resolved,
    s.backlog
FROM (
    SELECT c.*, (sum(c.opened - c.resolved) OVER one_line)::bigint AS backlog,
        lead(c.day, 1, (now() AT TIME ZONE 'UTC')::date + 1) OVER one_line AS next_day
    FROM (
        SELECT i.tenant_id, t.name AS tenant_name, coalesce(i.severity, 'UnSpecified') AS severity,
            (v.at AT TIME ZONE 'UTC')::date AS day,
            count(*) FILTER (WHERE v.opens) AS opened, count(*) FILTER (WHERE NOT v.opens) AS resolved
        FROM defender.incidents i
        JOIN defender.tenants t ON t.tenant_id = i.tenant_id
        CROSS JOIN LATERAL (VALUES (coalesce(i.created_time, i.first_synced_at), true),
            -- Nothing is resolved before it is opened, or a backlog would fall below zero.
            (CASE WHEN i.resolved_at IS NOT NULL
                THEN greatest(i.resolved_at, coalesce(i.created_time, i.first_synced_at)) END, false)) AS v(at, opens)
        WHERE v.at IS NOT NULL AND NOT i.is_merged AND t.removed_at IS NULL
        GROUP BY 1, 2, 3, 4
    ) c
    WINDOW one_line AS (PARTITION BY c.tenant_id, c.tenant_name, c.severity ORDER BY c.day)
) s
CROSS JOIN LATERAL generate_series(s.day::timestamp, s.next_day - interval '1 day', interval '1 day') AS d(day);

CREATE VIEW reporting.mitre_coverage WITH (security_invoker = true, security_barrier = true) AS
SELECT a.tenant_id, t.name AS tenant_name, u.technique, date_trunc('month', a.creation_time AT TIME ZONE 'UTC')::date AS month,
    count(*) AS alert_count, count(DISTINCT a.incident_id) AS incident_count
FROM defender.alerts a
JOIN defender.tenants t ON t.tenant_id = a.tenant_id
JOIN defender.incidents i ON i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id
CROSS JOIN LATERAL (SELECT DISTINCT technique FROM unnest(a.mitre_techniques) AS listed(technique)) u
WHERE t.removed_at IS NULL AND NOT i.is_merged AND a.creation_time IS NOT NULL
GROUP BY 1, 2, 3, 4;

CREATE VIEW reporting.evidence WITH (security_invoker = true, security_barrier = true) AS
SELECT e.tenant_id, t.name AS tenant_name, e.alert_id, a.incident_id, encode(e.evidence_hash, 'hex') AS evidence_key,
    e.entity_type,
    CASE lower(e.entity_type)
        WHEN 'user' THEN coalesce(e.user_principal_name, e.domain_name || '\' || e.account_name, e.account_name, e.user_sid,
            e.aad_user_id)
        WHEN 'process' THEN coalesce(e.process_command_line, e.file_name, 'process ' || e.process_id)
        WHEN 'mailmessage' THEN coalesce(e.subject, e.internet_message_id)
        WHEN 'registry' THEN concat_ws('\', e.registry_hive, e.registry_key, e.registry_value)
        WHEN 'mailcluster' THEN coalesce(e.cluster_by_value, e.cluster_by)
        ELSE coalesce(e.ip_address, e.url, e.file_name, e.mailbox_address, e.mailbox_display_name, e.security_group_name,
            e.sha256, e.sha1, e.security_group_id, e.user_principal_name, e.account_name, e.device_id)
    END AS subject,
    e.evidence_creation_time, e.verdict, e.remediation_status, e.device_id, e.user_principal_name, e.ip_address, e.url,
    e.file_name, e.file_path, e.sha1, e.sha256, e.process_command_line, e.sender, e.recipient
FROM defender.evidence e
JOIN defender.tenants t ON t.tenant_id = e.tenant_id
JOIN defender.alerts a ON a.tenant_id = e.tenant_id AND a.alert_id = e.alert_id
JOIN defender.incidents i ON i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id
WHERE t.removed_at IS NULL AND NOT i.is_merged;

CREATE VIEW reporting.users_at_risk WITH (security_invoker = true, security_barrier = true) AS
SELECT i.tenant_id, t.name AS tenant_name, u.user_key, max(e.user_principal_name) AS user_principal_name,
    max(e.account_name) AS account_name, max(e.aad_user_id) AS aad_user_id,
    count(DISTINCT i.incident_id) AS open_incident_count, count(DISTINCT a.alert_id) AS alert_count,
    CASE max(CASE i.severity WHEN 'High' THEN 4 WHEN 'Medium' THEN 3 WHEN 'Low' THEN 2 WHEN 'Informational' THEN 1
            ELSE 0 END)
        WHEN 4 THEN 'High' WHEN 3 THEN 'Medium' WHEN 2 THEN 'Low' WHEN 1 THEN 'Informational' ELSE 'UnSpecified'
    END AS highest_severity,
    max(a.last_activity) AS last_activity
FROM defender.incidents i
JOIN defender.tenants t ON t.tenant_id = i.tenant_id
JOIN defender.alerts a ON a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id
    AND a.last_seen >= i.last_update_time
JOIN defender.evidence e ON e.tenant_id = a.tenant_id AND e.alert_id = a.alert_id
CROSS JOIN LATERAL (SELECT lower(coalesce(e.user_principal_name, e.aad_user_id, e.user_sid, e.account_name))) AS u(user_key)
WHERE t.removed_at IS NULL AND i.resolved_at IS NULL AND NOT i.is_merged
    AND lower(e.entity_type) = 'user' AND u.user_key IS NOT NULL
GROUP BY i.tenant_id, t.name, u.user_key;

COMMENT ON VIEW reporting.incidents IS 'One row an incident, merged ones included and marked: count only rows that are not is_merged';
COMMENT ON VIEW reporting.open_incidents IS 'One row an incident that is neither resolved nor merged';
COMMENT ON VIEW reporting.alerts IS 'One row an alert, but not of merged incidents: Microsoft moves their alerts to the incident that remains';
COMMENT ON VIEW reporting.evidence IS 'One row an entity of an alert (user, device address, file, process, mail...) with one readable subject; not of merged incidents';
COMMENT ON VIEW reporting.devices_at_risk IS 'One row a device that an alert of an open incident names';
COMMENT ON VIEW reporting.users_at_risk IS 'One row a user that the evidence of an open incident names';
COMMENT ON VIEW reporting.mttr_by_tenant_month IS 'One row a tenant and month (UTC) in which an incident was acknowledged or resolved, each counted in the month in which that happened; merged incidents are left out. Times count from the creation of the incident. What had happened before we saw the incident has no exact time: it is counted as unobserved and is in no median. Much of it is what was closed within minutes, so that with many of them the medians are too high';
COMMENT ON VIEW reporting.incident_trend_daily IS 'One row a tenant, severity and day (UTC), from the first incident of that tenant and severity until today, days without incidents included; merged incidents are left out, from the day on which they merge also in the past. By the severity of now. A reopened incident counts as open since its creation. What was resolved before we saw it counts as resolved on the latest day on which that can have happened';
COMMENT ON VIEW reporting.mitre_coverage IS 'One row a tenant, MITRE ATT&CK technique and month (UTC) of the creation of alerts; not of merged incidents';
COMMENT ON VIEW reporting.tenant_freshness IS 'One row a tenant: how old its data is and who must act: what every dashboard should show beside its numbers';

-- A name means the same in each view. A column that nobody described stops the migration.
DO $$
DECLARE
    described record;
BEGIN
    FOR described IN
        SELECT c.table_name, c.column_name, d.meaning
        FROM information_schema.columns c
        LEFT JOIN (VALUES
            ('tenant_id', 'The customer''s Entra tenant. Tenants that left the configuration are in no view'),
            ('tenant_name', 'The operator''s name for the customer'),
            ('labels', 'Labels of the tenant from the configuration'),
            ('tenant_labels', 'Labels of the tenant from the configuration'),
            ('enabled', 'Whether the tenant is synchronised'),
            ('data_as_of', 'Every incident version with an earlier lastUpdateTime is stored'),
            ('last_success_at', 'When the last run that succeeded ended'),
            ('lag_seconds', 'Seconds since everything up to then was stored; NULL before the first success'),
            ('history_complete', 'Whether the first synchronisation is complete'),
            ('consecutive_failures', 'Runs that failed since the last success'),
            ('error_class', 'What is wrong, as the README lists it; NULL when all is well'),
            ('error_message', 'What is wrong, in words'),
            ('who_must_act', 'developers, operator, customer_admin or nobody (waiting helps); NULL when all is well'),
            ('last_outcome', 'ok, failed, parked (waits for a person) or never run'),
            ('gaps', 'Ranges of time that the API fails to serve: their incidents may be missing or old'),
            ('incident_id', 'Microsoft''s number of the incident, unique within its tenant only'),
            ('incident_name', 'Microsoft''s title of the incident'),
            ('severity', 'High, Medium, Low, Informational or UnSpecified, as it is now'),
            ('status', 'Microsoft''s status as it is now: Active, InProgress, Resolved, Redirected; alerts have New, InProgress, Resolved'),
            ('classification', 'TruePositive, FalsePositive and others, once somebody decided'),
            ('determination', 'What it was found to be: Malware, Phishing, SecurityTesting and others'),
            ('assigned_to', 'Who works on it; may be Automation'),
            ('detection_source', 'Which product or sensor detected it'),
            ('tags', 'Custom tags of the incident'),
            ('created_time', 'When Microsoft created the incident'),
            ('last_update_time', 'When Microsoft last changed the incident'),
            ('acknowledged_at', 'When somebody took the incident on: the first change of its status away from Active, New or Redirected, or its first assignment to anybody but Automation, whichever came first; NULL if not yet. As exact as the polls are frequent'),
            ('acknowledged_at_is_exact', 'Whether we saw the incident before it was acknowledged; if not, acknowledged_at is the latest time at which that can have happened'),
            ('resolved_at', 'When the incident was last resolved; NULL when it is not, or open again'),
            ('resolved_at_is_exact', 'Whether we saw the incident before it was resolved; if not, resolved_at is the latest time at which that can have happened'),
            ('is_open', 'Neither resolved nor merged'),
            ('is_merged', 'Whether the incident became part of another one and must not be counted'),
            ('merged_into_incident_id', 'The incident at the end of the chain of merges, which may not be stored; NULL when not merged, and when the chain is a loop'),
            ('reopened_count', 'How often the resolved incident was seen open again'),
            ('age_seconds', 'Seconds from its creation until it was resolved, or until now'),
            ('time_to_acknowledge_seconds', 'Seconds from its creation to acknowledged_at; NULL unless that is exact'),
            ('time_to_resolve_seconds', 'Seconds from its creation to resolved_at, all its reopened life included; NULL unless that is exact'),
            ('alert_count', 'Distinct alerts that the newest version of their incident lists; in mitre_coverage all alerts'),
            ('device_count', 'Distinct devices that these alerts name'),
            ('user_count', 'Distinct users in the evidence of these alerts'),
            ('portal_url', 'The incident in Microsoft''s portal; made for the commercial cloud where the API gave no link'),
            ('alert_id', 'Microsoft''s id of the alert, unique within its tenant only'),
            ('title', 'Microsoft''s title of the alert'),
            ('category', 'Microsoft''s category of the alert, mostly a MITRE tactic'),
            ('service_source', 'Which Microsoft product raised the alert; old and new names of one product both occur'),
            ('creation_time', 'When Microsoft created the alert'),
            ('last_updated_time', 'When Microsoft last changed the alert'),
            ('resolved_time', 'When the alert was resolved'),
            ('first_activity', 'The first activity that the alert is about'),
            ('last_activity', 'The last activity that the alerts are about'),
            ('investigation_state', 'State of Microsoft''s automated investigation'),
            ('actor_name', 'Activity group, where Microsoft names one'),
            ('threat_family_name', 'Threat family, where Microsoft names one'),
            ('mitre_techniques', 'MITRE ATT&CK techniques, such as T1078.004'),
            ('is_listed', 'Whether the newest version of the incident still lists the alert'),
            ('evidence_count', 'Rows of evidence of the alert'),
            ('evidence_key', 'Tells apart the entities of one alert'),
            ('entity_type', 'User, Ip, Url, File, Process, MailBox, MailMessage, MailCluster, Registry, SecurityGroup; spelt as served'),
            ('subject', 'What the entity is, in one readable text'),
            ('evidence_creation_time', 'When the entity was added to the alert'),
            ('verdict', 'Microsoft''s verdict on the entity'),
            ('remediation_status', 'What became of the entity'),
            ('device_id', 'Microsoft''s id of the device (mdatpDeviceId)'),
            ('user_principal_name', 'The user''s sign-in name'),
            ('ip_address', 'IP address'), ('url', 'URL'), ('file_name', 'Name of the file'), ('file_path', 'Folder of the file'),
            ('sha1', 'SHA-1 of the file'), ('sha256', 'SHA-256 of the file'),
            ('process_command_line', 'Command line of the process'),
            ('sender', 'Sender of the mail'), ('recipient', 'Recipient of the mail'),
            ('device_dns_name', 'Name of the device; its case may differ from alert to alert'),
            ('os_platform', 'Operating system'), ('health_status', 'Health of the device''s sensor'),
            ('risk_score', 'Microsoft''s risk of the device: None, Informational, Low, Medium, High'),
            ('rbac_group_name', 'Device group'),
            ('open_incident_count', 'Distinct open incidents'),
            ('highest_severity', 'The highest severity among these incidents'),
            ('user_key', 'Sign-in name in small letters, or else Entra object id, SID or account name: the first that the evidence has. One user whose alerts carry different ones has several rows'),
            ('account_name', 'Account name without domain'), ('aad_user_id', 'Entra object id of the user'),
            ('month', 'First day of the month (UTC)'),
            ('acknowledged_count', 'Incidents acknowledged in the month, observed exactly'),
            ('time_to_acknowledge_median_seconds', 'Median of their time_to_acknowledge_seconds'),
            ('time_to_acknowledge_p90_seconds', '90th percentile of the same'),
            ('acknowledged_unobserved_count', 'Incidents that had been acknowledged before we saw them, in no median'),
            ('resolved_count', 'Incidents resolved in the month, observed exactly'),
            ('time_to_resolve_median_seconds', 'Median of their time_to_resolve_seconds'),
            ('time_to_resolve_p90_seconds', '90th percentile of the same'),
            ('resolved_unobserved_count', 'Incidents that had been resolved before we saw them, in no median'),
            ('day', 'Day (UTC)'), ('opened', 'Incidents created on the day'), ('resolved', 'Incidents resolved on the day'),
            ('backlog', 'Incidents open at the end of the day; today: now'),
            ('technique', 'MITRE ATT&CK technique'),
            ('incident_count', 'Distinct incidents of these alerts')
        ) AS d(column_name, meaning) USING (column_name)
        WHERE c.table_schema = 'reporting'
    LOOP
        IF described.meaning IS NULL THEN
            RAISE EXCEPTION 'reporting.%.% has no description', described.table_name, described.column_name;
        END IF;
        EXECUTE format('COMMENT ON COLUMN reporting.%I.%I IS %L', described.table_name, described.column_name, described.meaning);
    END LOOP;
END $$;

GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO incident_sync_reader, incident_sync_tenant_reader;
