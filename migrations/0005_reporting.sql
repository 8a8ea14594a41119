-- The milestones of an incident, and the views for analysts. reporting.incident_changes is in 0003_change_feed.sql.
--
-- Every view runs with its reader's own rights (row-level security holds; the view's owner would see all tenants) and behind
-- a barrier, which only leakproof conditions can pass: =, <, > on uuid, text, bigint, date, timestamptz and boolean
-- columns can, LIKE and JSON operators cannot and are applied afterwards. Counts are scalar subqueries: the
-- planner drops those that a query does not ask for, which it cannot do with a join.
--
-- A column name means the same in each view.

CREATE FUNCTION defender.is_acknowledged(status text, assigned_to text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(status NOT IN ('Active', 'New', 'Redirected'), false)
    OR coalesce(lower(assigned_to) NOT IN ('', 'automation'), false);
COMMENT ON FUNCTION defender.is_acknowledged IS 'Whether an incident with this status and assignee is acknowledged';
REVOKE EXECUTE ON FUNCTION defender.is_acknowledged FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.is_acknowledged TO incident_sync_writer;

-- A trigger, so that statements written by hand keep the milestones too. It sees the same transitions as incident_changes:
-- both use versions that are accepted as newer. A missing status is no evidence of a resolution.
CREATE FUNCTION defender.note_milestones() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- An incident that redirects to itself is not merged.
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
COMMENT ON FUNCTION defender.note_milestones IS 'Maintains is_merged, acknowledged_at, resolved_at and reopened_count of an incident';
REVOKE EXECUTE ON FUNCTION defender.note_milestones FROM PUBLIC;
-- Setting the search_path costs time for each row. Only these columns are read or written by the function; an update of
-- others, such as the counts, does not call it.
CREATE TRIGGER note_milestones
    BEFORE INSERT OR UPDATE OF incident_id, redirect_incident_id, status, assigned_to, last_update_time, is_merged,
        acknowledged_at, acknowledged_at_is_exact, resolved_at, resolved_at_is_exact, reopened_count
    ON defender.incidents
    FOR EACH ROW EXECUTE FUNCTION defender.note_milestones();

CREATE VIEW reporting.tenant_freshness WITH (security_invoker = true, security_barrier = true) AS
SELECT t.tenant_id, t.name AS tenant_name, t.labels, t.enabled, s.watermark AS data_as_of,
    s.last_success_at, extract(epoch FROM now() - s.last_success_at)::double precision AS lag_seconds,
    s.backfilled_at IS NOT NULL AS history_complete, s.consecutive_failures, d.error_class, d.error_message,
    s.who_must_act,
    CASE WHEN s.last_attempt_at IS NULL THEN 'never run' WHEN d.is_parked THEN 'parked'
        WHEN s.consecutive_failures > 0 THEN 'failed' ELSE 'ok' END AS last_outcome,
    (SELECT count(*) FROM defender.sync_gaps g WHERE g.tenant_id = t.tenant_id) AS gaps,
    d.internal_labels
FROM defender.tenants t
LEFT JOIN defender.sync_state s USING (tenant_id)
LEFT JOIN defender.diagnoses() d ON d.tenant_id = t.tenant_id
WHERE t.removed_at IS NULL;
COMMENT ON VIEW reporting.tenant_freshness IS 'One row per tenant: age of its data, state of the sync and who must act. Show it on every dashboard';
COMMENT ON COLUMN reporting.tenant_freshness.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.tenant_freshness.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.tenant_freshness.labels IS 'Labels of the tenant from the configuration';
COMMENT ON COLUMN reporting.tenant_freshness.enabled IS 'Whether the tenant is synced';
COMMENT ON COLUMN reporting.tenant_freshness.data_as_of IS 'Every incident version with an earlier lastUpdateTime is stored';
COMMENT ON COLUMN reporting.tenant_freshness.last_success_at IS 'When the last complete run started; everything up to then is stored';
COMMENT ON COLUMN reporting.tenant_freshness.lag_seconds IS 'Seconds since last_success_at; NULL before the first success';
COMMENT ON COLUMN reporting.tenant_freshness.history_complete IS 'Whether the first sync is complete';
COMMENT ON COLUMN reporting.tenant_freshness.consecutive_failures IS 'Failed runs since the last success';
COMMENT ON COLUMN reporting.tenant_freshness.error_class IS 'Error class as listed in docs/errors.md; NULL without an error. A customer-scoped role sees the owner of the problem instead, unless that is customer_admin';
COMMENT ON COLUMN reporting.tenant_freshness.error_message IS 'Error message. A customer-scoped role sees it only if the customer''s admin must act';
COMMENT ON COLUMN reporting.tenant_freshness.who_must_act IS 'Owner of the problem: developers, operator, customer_admin or nobody (resolves by itself); NULL without an error';
COMMENT ON COLUMN reporting.tenant_freshness.last_outcome IS 'ok, failed, parked (a person must act) or never run';
COMMENT ON COLUMN reporting.tenant_freshness.gaps IS 'Number of time ranges that the API fails to serve; their incidents may be missing or outdated';
COMMENT ON COLUMN reporting.tenant_freshness.internal_labels IS 'Labels from the configuration whose keys begin with internal.; NULL for a customer-scoped role';

CREATE VIEW reporting.incidents WITH (security_invoker = true, security_barrier = true) AS
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
        format('https://security.microsoft.com/incidents/%s?tid=%s', i.incident_id, i.tenant_id)) AS portal_url
FROM defender.incidents i
JOIN defender.tenants t USING (tenant_id)
LEFT JOIN defender.summaries s ON s.tenant_id = i.tenant_id
WHERE t.removed_at IS NULL;
COMMENT ON VIEW reporting.incidents IS 'One row per incident, including merged ones: count only rows with NOT is_merged';
COMMENT ON COLUMN reporting.incidents.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.incidents.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.incidents.tenant_labels IS 'Labels of the tenant from the configuration';
COMMENT ON COLUMN reporting.incidents.incident_id IS 'Microsoft''s number of the incident, unique within its tenant only';
COMMENT ON COLUMN reporting.incidents.incident_name IS 'Microsoft''s title of the incident';
COMMENT ON COLUMN reporting.incidents.severity IS 'High, Medium, Low, Informational or UnSpecified; current value';
COMMENT ON COLUMN reporting.incidents.status IS 'Current status: Active, InProgress, Resolved, Redirected; of alerts: New, InProgress, Resolved';
COMMENT ON COLUMN reporting.incidents.classification IS 'TruePositive, FalsePositive and others, once classified';
COMMENT ON COLUMN reporting.incidents.determination IS 'Finding of the investigation: Malware, Phishing, SecurityTesting and others';
COMMENT ON COLUMN reporting.incidents.assigned_to IS 'Assignee; may be Automation';
COMMENT ON COLUMN reporting.incidents.detection_source IS 'Product or sensor that detected it';
COMMENT ON COLUMN reporting.incidents.tags IS 'Custom tags of the incident';
COMMENT ON COLUMN reporting.incidents.created_time IS 'When Microsoft created the incident';
COMMENT ON COLUMN reporting.incidents.last_update_time IS 'When Microsoft last changed the incident';
COMMENT ON COLUMN reporting.incidents.acknowledged_at IS 'When the incident was acknowledged: its first status other than Active, New or Redirected, or its first assignee other than Automation, whichever came first; NULL if not yet. As precise as the poll interval';
COMMENT ON COLUMN reporting.incidents.acknowledged_at_is_exact IS 'Whether an earlier version was stored before the incident was acknowledged; if not, acknowledged_at is the latest possible time';
COMMENT ON COLUMN reporting.incidents.resolved_at IS 'When the incident was last resolved; NULL while it is open, also after reopening';
COMMENT ON COLUMN reporting.incidents.resolved_at_is_exact IS 'Whether an earlier version was stored before the incident was resolved; if not, resolved_at is the latest possible time';
COMMENT ON COLUMN reporting.incidents.is_open IS 'Neither resolved nor merged';
COMMENT ON COLUMN reporting.incidents.is_merged IS 'Whether the incident was merged into another one and must not be counted';
COMMENT ON COLUMN reporting.incidents.merged_into_incident_id IS 'Last incident of the chain of merges; may not be stored. NULL if not merged or if the chain is a loop';
COMMENT ON COLUMN reporting.incidents.reopened_count IS 'How often the resolved incident was reopened';
COMMENT ON COLUMN reporting.incidents.age_seconds IS 'Seconds from creation until it was resolved, or until now';
COMMENT ON COLUMN reporting.incidents.time_to_acknowledge_seconds IS 'Seconds from creation to acknowledged_at; NULL unless acknowledged_at_is_exact';
COMMENT ON COLUMN reporting.incidents.time_to_resolve_seconds IS 'Seconds from creation to resolved_at, including reopened periods; NULL unless resolved_at_is_exact';
COMMENT ON COLUMN reporting.incidents.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN reporting.incidents.device_count IS 'Distinct devices of these alerts';
COMMENT ON COLUMN reporting.incidents.user_count IS 'Distinct users in the evidence of these alerts';
COMMENT ON COLUMN reporting.incidents.portal_url IS 'Link to the incident in Microsoft''s portal; built for the commercial cloud if the API served none';

CREATE VIEW reporting.open_incidents WITH (security_invoker = true, security_barrier = true) AS
SELECT v.tenant_id, v.tenant_name, v.tenant_labels, v.incident_id, v.incident_name, v.severity, v.status,
    v.classification, v.determination, v.assigned_to, v.detection_source, v.tags, v.created_time, v.last_update_time,
    v.acknowledged_at, v.acknowledged_at_is_exact, v.reopened_count, v.age_seconds, v.time_to_acknowledge_seconds,
    v.alert_count, v.device_count, v.user_count, v.portal_url
FROM reporting.incidents v
WHERE v.resolved_at IS NULL AND NOT v.is_merged;
COMMENT ON VIEW reporting.open_incidents IS 'One row per incident that is neither resolved nor merged';
COMMENT ON COLUMN reporting.open_incidents.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.open_incidents.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.open_incidents.tenant_labels IS 'Labels of the tenant from the configuration';
COMMENT ON COLUMN reporting.open_incidents.incident_id IS 'Microsoft''s number of the incident, unique within its tenant only';
COMMENT ON COLUMN reporting.open_incidents.incident_name IS 'Microsoft''s title of the incident';
COMMENT ON COLUMN reporting.open_incidents.severity IS 'High, Medium, Low, Informational or UnSpecified; current value';
COMMENT ON COLUMN reporting.open_incidents.status IS 'Current status: Active, InProgress, Resolved, Redirected; of alerts: New, InProgress, Resolved';
COMMENT ON COLUMN reporting.open_incidents.classification IS 'TruePositive, FalsePositive and others, once classified';
COMMENT ON COLUMN reporting.open_incidents.determination IS 'Finding of the investigation: Malware, Phishing, SecurityTesting and others';
COMMENT ON COLUMN reporting.open_incidents.assigned_to IS 'Assignee; may be Automation';
COMMENT ON COLUMN reporting.open_incidents.detection_source IS 'Product or sensor that detected it';
COMMENT ON COLUMN reporting.open_incidents.tags IS 'Custom tags of the incident';
COMMENT ON COLUMN reporting.open_incidents.created_time IS 'When Microsoft created the incident';
COMMENT ON COLUMN reporting.open_incidents.last_update_time IS 'When Microsoft last changed the incident';
COMMENT ON COLUMN reporting.open_incidents.acknowledged_at IS 'When the incident was acknowledged: its first status other than Active, New or Redirected, or its first assignee other than Automation, whichever came first; NULL if not yet. As precise as the poll interval';
COMMENT ON COLUMN reporting.open_incidents.acknowledged_at_is_exact IS 'Whether an earlier version was stored before the incident was acknowledged; if not, acknowledged_at is the latest possible time';
COMMENT ON COLUMN reporting.open_incidents.reopened_count IS 'How often the resolved incident was reopened';
COMMENT ON COLUMN reporting.open_incidents.age_seconds IS 'Seconds from creation until it was resolved, or until now';
COMMENT ON COLUMN reporting.open_incidents.time_to_acknowledge_seconds IS 'Seconds from creation to acknowledged_at; NULL unless acknowledged_at_is_exact';
COMMENT ON COLUMN reporting.open_incidents.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN reporting.open_incidents.device_count IS 'Distinct devices of these alerts';
COMMENT ON COLUMN reporting.open_incidents.user_count IS 'Distinct users in the evidence of these alerts';
COMMENT ON COLUMN reporting.open_incidents.portal_url IS 'Link to the incident in Microsoft''s portal; built for the commercial cloud if the API served none';

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
COMMENT ON VIEW reporting.alerts IS 'One row per alert, except those of merged incidents: Microsoft moves their alerts to the remaining incident';
COMMENT ON COLUMN reporting.alerts.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.alerts.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.alerts.alert_id IS 'Microsoft''s id of the alert, unique within its tenant only';
COMMENT ON COLUMN reporting.alerts.incident_id IS 'Microsoft''s number of the incident, unique within its tenant only';
COMMENT ON COLUMN reporting.alerts.title IS 'Microsoft''s title of the alert';
COMMENT ON COLUMN reporting.alerts.category IS 'Microsoft''s category of the alert, mostly a MITRE tactic';
COMMENT ON COLUMN reporting.alerts.severity IS 'High, Medium, Low, Informational or UnSpecified; current value';
COMMENT ON COLUMN reporting.alerts.status IS 'Current status: Active, InProgress, Resolved, Redirected; of alerts: New, InProgress, Resolved';
COMMENT ON COLUMN reporting.alerts.service_source IS 'Microsoft product that raised the alert; old and new names of a product both occur';
COMMENT ON COLUMN reporting.alerts.detection_source IS 'Product or sensor that detected it';
COMMENT ON COLUMN reporting.alerts.classification IS 'TruePositive, FalsePositive and others, once classified';
COMMENT ON COLUMN reporting.alerts.determination IS 'Finding of the investigation: Malware, Phishing, SecurityTesting and others';
COMMENT ON COLUMN reporting.alerts.assigned_to IS 'Assignee; may be Automation';
COMMENT ON COLUMN reporting.alerts.creation_time IS 'When Microsoft created the alert';
COMMENT ON COLUMN reporting.alerts.last_updated_time IS 'When Microsoft last changed the alert';
COMMENT ON COLUMN reporting.alerts.resolved_time IS 'When the alert was resolved';
COMMENT ON COLUMN reporting.alerts.first_activity IS 'Time of the first activity of the alert';
COMMENT ON COLUMN reporting.alerts.last_activity IS 'Time of the last activity of these alerts';
COMMENT ON COLUMN reporting.alerts.investigation_state IS 'State of Microsoft''s automated investigation';
COMMENT ON COLUMN reporting.alerts.actor_name IS 'Activity group, where Microsoft names one';
COMMENT ON COLUMN reporting.alerts.threat_family_name IS 'Threat family, where Microsoft names one';
COMMENT ON COLUMN reporting.alerts.mitre_techniques IS 'MITRE ATT&CK techniques, such as T1078.004';
COMMENT ON COLUMN reporting.alerts.is_listed IS 'Whether the newest version of the incident still lists the alert';
COMMENT ON COLUMN reporting.alerts.device_count IS 'Distinct devices of these alerts';
COMMENT ON COLUMN reporting.alerts.evidence_count IS 'Number of evidence rows of the alert';

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
COMMENT ON VIEW reporting.evidence IS 'One row per entity of an alert (user, IP address, file, process, mail and others) with a readable subject; without merged incidents';
COMMENT ON COLUMN reporting.evidence.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.evidence.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.evidence.alert_id IS 'Microsoft''s id of the alert, unique within its tenant only';
COMMENT ON COLUMN reporting.evidence.incident_id IS 'Microsoft''s number of the incident, unique within its tenant only';
COMMENT ON COLUMN reporting.evidence.evidence_key IS 'Identifies the entity within its alert';
COMMENT ON COLUMN reporting.evidence.entity_type IS 'User, Ip, Url, File, Process, MailBox, MailMessage, MailCluster, Registry, SecurityGroup; spelling as served';
COMMENT ON COLUMN reporting.evidence.subject IS 'Readable description of the entity';
COMMENT ON COLUMN reporting.evidence.evidence_creation_time IS 'When the entity was added to the alert';
COMMENT ON COLUMN reporting.evidence.verdict IS 'Microsoft''s verdict on the entity';
COMMENT ON COLUMN reporting.evidence.remediation_status IS 'State of the remediation of the entity';
COMMENT ON COLUMN reporting.evidence.device_id IS 'Microsoft''s id of the device (mdatpDeviceId)';
COMMENT ON COLUMN reporting.evidence.user_principal_name IS 'The user''s sign-in name';
COMMENT ON COLUMN reporting.evidence.ip_address IS 'IP address';
COMMENT ON COLUMN reporting.evidence.url IS 'URL';
COMMENT ON COLUMN reporting.evidence.file_name IS 'Name of the file';
COMMENT ON COLUMN reporting.evidence.file_path IS 'Folder of the file';
COMMENT ON COLUMN reporting.evidence.sha1 IS 'SHA-1 of the file';
COMMENT ON COLUMN reporting.evidence.sha256 IS 'SHA-256 of the file';
COMMENT ON COLUMN reporting.evidence.process_command_line IS 'Command line of the process';
COMMENT ON COLUMN reporting.evidence.sender IS 'Sender of the mail';
COMMENT ON COLUMN reporting.evidence.recipient IS 'Recipient of the mail';

-- Views on summaries. Few tenants have no current summaries: OFFSET 0 counts them one by one, where a join would count all.
CREATE VIEW reporting.incident_trend_daily WITH (security_invoker = true, security_barrier = true) AS
SELECT d.tenant_id, t.name AS tenant_name, d.severity, d.day, d.opened, d.resolved, d.backlog
FROM (
    SELECT d.* FROM defender.summaries s JOIN defender.incident_days d ON d.tenant_id = s.tenant_id WHERE s.is_current
    UNION ALL
    -- Later days without changes.
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
COMMENT ON VIEW reporting.incident_trend_daily IS 'One row per tenant, severity and day (UTC) from the first incident of that tenant and severity until today, including days without incidents. Merged incidents are excluded, after the merge also from past days. Incidents count under their current severity. A reopened incident counts as open since its creation. An incident already resolved when first stored counts as resolved on the latest possible day';
COMMENT ON COLUMN reporting.incident_trend_daily.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.incident_trend_daily.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.incident_trend_daily.severity IS 'High, Medium, Low, Informational or UnSpecified; current value';
COMMENT ON COLUMN reporting.incident_trend_daily.day IS 'Day (UTC)';
COMMENT ON COLUMN reporting.incident_trend_daily.opened IS 'Incidents created on the day';
COMMENT ON COLUMN reporting.incident_trend_daily.resolved IS 'Incidents resolved on the day';
COMMENT ON COLUMN reporting.incident_trend_daily.backlog IS 'Incidents open at the end of the day; for today, open now';

CREATE VIEW reporting.mttr_by_tenant_month WITH (security_invoker = true, security_barrier = true) AS
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
COMMENT ON VIEW reporting.mttr_by_tenant_month IS 'One row per tenant and month (UTC) in which an incident was acknowledged or resolved, each counted in that month; without merged incidents. Times are measured from the creation of the incident. An incident that was already acknowledged or resolved when first stored has no exact time: it counts as unobserved and is in no median. Many of these were closed within minutes, so a high unobserved count means that the medians are too high';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.month IS 'First day of the month (UTC)';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.acknowledged_count IS 'Incidents acknowledged in the month at an exactly known time';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.time_to_acknowledge_median_seconds IS 'Median of time_to_acknowledge_seconds of these incidents';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.time_to_acknowledge_p90_seconds IS '90th percentile of time_to_acknowledge_seconds of these incidents';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.acknowledged_unobserved_count IS 'Incidents already acknowledged when first stored; in no median';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.resolved_count IS 'Incidents resolved in the month at an exactly known time';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.time_to_resolve_median_seconds IS 'Median of time_to_resolve_seconds of these incidents';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.time_to_resolve_p90_seconds IS '90th percentile of time_to_resolve_seconds of these incidents';
COMMENT ON COLUMN reporting.mttr_by_tenant_month.resolved_unobserved_count IS 'Incidents already resolved when first stored; in no median';

CREATE VIEW reporting.mitre_coverage WITH (security_invoker = true, security_barrier = true) AS
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
COMMENT ON VIEW reporting.mitre_coverage IS 'One row per tenant, MITRE ATT&CK technique and month (UTC) of alert creation; without merged incidents';
COMMENT ON COLUMN reporting.mitre_coverage.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.mitre_coverage.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.mitre_coverage.technique IS 'MITRE ATT&CK technique';
COMMENT ON COLUMN reporting.mitre_coverage.month IS 'First day of the month (UTC)';
COMMENT ON COLUMN reporting.mitre_coverage.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN reporting.mitre_coverage.incident_count IS 'Distinct incidents of these alerts';

CREATE VIEW reporting.devices_at_risk WITH (security_invoker = true, security_barrier = true) AS
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
COMMENT ON VIEW reporting.devices_at_risk IS 'One row per device in an alert of an open incident';
COMMENT ON COLUMN reporting.devices_at_risk.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.devices_at_risk.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.devices_at_risk.device_id IS 'Microsoft''s id of the device (mdatpDeviceId)';
COMMENT ON COLUMN reporting.devices_at_risk.device_dns_name IS 'Name of the device; upper and lower case may differ between alerts';
COMMENT ON COLUMN reporting.devices_at_risk.os_platform IS 'Operating system';
COMMENT ON COLUMN reporting.devices_at_risk.health_status IS 'Health of the device''s sensor';
COMMENT ON COLUMN reporting.devices_at_risk.risk_score IS 'Microsoft''s risk of the device: None, Informational, Low, Medium, High';
COMMENT ON COLUMN reporting.devices_at_risk.rbac_group_name IS 'Device group';
COMMENT ON COLUMN reporting.devices_at_risk.open_incident_count IS 'Distinct open incidents';
COMMENT ON COLUMN reporting.devices_at_risk.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN reporting.devices_at_risk.highest_severity IS 'Highest severity of these incidents';
COMMENT ON COLUMN reporting.devices_at_risk.last_activity IS 'Time of the last activity of these alerts';

CREATE VIEW reporting.users_at_risk WITH (security_invoker = true, security_barrier = true) AS
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
COMMENT ON VIEW reporting.users_at_risk IS 'One row per user in the evidence of an open incident';
COMMENT ON COLUMN reporting.users_at_risk.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.users_at_risk.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.users_at_risk.user_key IS 'Lower-case sign-in name, Entra object id, SID or account name: the first of these in the evidence. A user with different ones in several alerts has several rows';
COMMENT ON COLUMN reporting.users_at_risk.user_principal_name IS 'The user''s sign-in name';
COMMENT ON COLUMN reporting.users_at_risk.account_name IS 'Account name without domain';
COMMENT ON COLUMN reporting.users_at_risk.aad_user_id IS 'Entra object id of the user';
COMMENT ON COLUMN reporting.users_at_risk.open_incident_count IS 'Distinct open incidents';
COMMENT ON COLUMN reporting.users_at_risk.alert_count IS 'Distinct alerts in the newest version of their incident; in mitre_coverage all alerts';
COMMENT ON COLUMN reporting.users_at_risk.highest_severity IS 'Highest severity of these incidents';
COMMENT ON COLUMN reporting.users_at_risk.last_activity IS 'Time of the last activity of these alerts';

GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO incident_sync_reader, incident_sync_tenant_reader;
