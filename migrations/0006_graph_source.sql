-- A second source: the Microsoft Graph security API. Its incidents, alerts and evidence are stored in the same tables under
-- the same names and values; these columns hold what it serves in addition, and from which source a row came.
--
-- Takes milliseconds: no table is rewritten, because a constant default is stored in the catalog. The tables are small where
-- a constraint has to read them (sync_state, sync_runs), or the default satisfies it (incident_payloads is read once).

ALTER TABLE defender.incidents
    ADD COLUMN description       text,
    ADD COLUMN summary           text,
    ADD COLUMN resolving_comment text,
    ADD COLUMN last_modified_by  text,
    ADD COLUMN priority_score    integer,
    ADD COLUMN system_tags       text[];
COMMENT ON COLUMN defender.incidents.description IS 'Microsoft''s description of the incident; source graph only';
COMMENT ON COLUMN defender.incidents.summary IS 'Overview of the attack; source graph only';
COMMENT ON COLUMN defender.incidents.resolving_comment IS 'Comment with which the incident was resolved; source graph only';
COMMENT ON COLUMN defender.incidents.last_modified_by IS 'Person or service that last changed the incident; source graph only';
COMMENT ON COLUMN defender.incidents.priority_score IS 'Microsoft''s priority of the incident, 0 to 100; source graph only';
COMMENT ON COLUMN defender.incidents.system_tags IS 'Tags that Microsoft set, such as Credential Phish; source graph only';
ALTER TABLE defender.incidents
    ALTER COLUMN description SET STATISTICS 0,
    ALTER COLUMN summary SET STATISTICS 0,
    ALTER COLUMN resolving_comment SET STATISTICS 0,
    ALTER COLUMN last_modified_by SET STATISTICS 0,
    ALTER COLUMN system_tags SET STATISTICS 0;

ALTER TABLE defender.alerts
    ADD COLUMN alert_web_url       text,
    ADD COLUMN recommended_actions text,
    ADD COLUMN product_name        text,
    ADD COLUMN alert_policy_id     text,
    ADD COLUMN categories          text[],
    ADD COLUMN system_tags         text[];
COMMENT ON COLUMN defender.alerts.alert_web_url IS 'The alert in Microsoft''s portal; source graph only';
COMMENT ON COLUMN defender.alerts.recommended_actions IS 'Recommended response, possibly with several lines; source graph only';
COMMENT ON COLUMN defender.alerts.product_name IS 'Name of the product that published the alert; source graph only';
COMMENT ON COLUMN defender.alerts.alert_policy_id IS 'Policy that raised the alert; source graph only';
COMMENT ON COLUMN defender.alerts.categories IS 'Categories of the alert, mostly MITRE tactics; source graph only';
COMMENT ON COLUMN defender.alerts.system_tags IS 'Tags that Microsoft set; source graph only';
ALTER TABLE defender.alerts
    ALTER COLUMN alert_web_url SET STATISTICS 0,
    ALTER COLUMN recommended_actions SET STATISTICS 0,
    ALTER COLUMN product_name SET STATISTICS 0,
    ALTER COLUMN alert_policy_id SET STATISTICS 0,
    ALTER COLUMN categories SET STATISTICS 0,
    ALTER COLUMN system_tags SET STATISTICS 0;

ALTER TABLE defender.evidence ADD COLUMN roles text[];
COMMENT ON COLUMN defender.evidence.roles IS 'Roles of the entity in the alert, such as Attacker or Compromised; source graph only';
ALTER TABLE defender.evidence ALTER COLUMN roles SET STATISTICS 0;

-- The shape of a payload depends on its source, and so does what a quarantined text is decoded as.
ALTER TABLE defender.incident_payloads
    ADD COLUMN source text NOT NULL DEFAULT 'defender'
        CONSTRAINT source_is_bounded CHECK (source IN ('defender', 'graph'));
COMMENT ON COLUMN defender.incident_payloads.source IS 'API that served the payload: defender or graph; determines its shape';
ALTER TABLE defender.rejected_payloads
    ADD COLUMN source text NOT NULL DEFAULT 'defender'
        CONSTRAINT source_is_bounded CHECK (source IN ('defender', 'graph'));
COMMENT ON COLUMN defender.rejected_payloads.source IS 'API that served the text: defender or graph';
ALTER TABLE defender.sync_runs
    ADD COLUMN source text NOT NULL DEFAULT 'defender'
        CONSTRAINT source_is_bounded CHECK (source IN ('defender', 'graph'));
COMMENT ON COLUMN defender.sync_runs.source IS 'API that the run read: defender or graph';
ALTER TABLE defender.sync_state
    ADD COLUMN source text NOT NULL DEFAULT 'defender'
        CONSTRAINT source_is_bounded CHECK (source IN ('defender', 'graph')),
    ADD COLUMN alerts_watermark timestamptz
        CONSTRAINT alerts_watermark_is_bounded CHECK (alerts_watermark BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z');
COMMENT ON COLUMN defender.sync_state.source IS 'API that the tenant is read from: defender or graph; changes under the lease only';
COMMENT ON COLUMN defender.sync_state.alerts_watermark IS 'Every alert version with an earlier lastUpdateDateTime is stored; NULL before alerts were read on their own (source graph)';

-- No reader may learn from statistics which source other tenants have.
ALTER TABLE defender.incident_payloads ALTER COLUMN source SET STATISTICS 0;
ALTER TABLE defender.rejected_payloads ALTER COLUMN source SET STATISTICS 0;
ALTER TABLE defender.sync_runs ALTER COLUMN source SET STATISTICS 0;
ALTER TABLE defender.sync_state ALTER COLUMN source SET STATISTICS 0;

-- Whether two values of a change feed's field are one value that the APIs spell differently. Only the write that changes an
-- incident's source asks: within one source another spelling is a change.
CREATE FUNCTION defender.is_respelled(field text, old_value text, new_value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN field = 'determination' THEN
        CASE old_value WHEN 'Unknown' THEN 'NotAvailable' WHEN 'CompromisedUser' THEN 'CompromisedAccount'
            WHEN 'Clean' THEN 'NotMalicious' WHEN 'InsufficientData' THEN 'NotEnoughDataToValidate'
            WHEN 'ConfirmedUserActivity' THEN 'ConfirmedActivity' ELSE coalesce(old_value, 'NotAvailable') END
        = CASE new_value WHEN 'Unknown' THEN 'NotAvailable' WHEN 'CompromisedUser' THEN 'CompromisedAccount'
            WHEN 'Clean' THEN 'NotMalicious' WHEN 'InsufficientData' THEN 'NotEnoughDataToValidate'
            WHEN 'ConfirmedUserActivity' THEN 'ConfirmedActivity' ELSE coalesce(new_value, 'NotAvailable') END
    WHEN field = 'classification' THEN coalesce(old_value, 'Unknown') = coalesce(new_value, 'Unknown')
    WHEN field = 'severity' THEN
        CASE old_value WHEN 'Unknown' THEN 'UnSpecified' ELSE coalesce(old_value, 'UnSpecified') END
        = CASE new_value WHEN 'Unknown' THEN 'UnSpecified' ELSE coalesce(new_value, 'UnSpecified') END
    WHEN field IN ('assigned_to', 'incident_name') THEN coalesce(old_value, '') = coalesce(new_value, '')
    ELSE false
END;
COMMENT ON FUNCTION defender.is_respelled IS 'Whether the sources spell one value in these two ways';
REVOKE EXECUTE ON FUNCTION defender.is_respelled FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.is_respelled TO incident_sync_writer;

-- Records for inserts, see 0001_tables.sql. A binary of an earlier release still finds its own.
CREATE TYPE defender.alert_record_2 AS (
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
    last_seen           timestamptz
);
COMMENT ON TYPE defender.alert_record_2 IS 'Row of alerts in an insert statement; arrays as text';

CREATE TYPE defender.evidence_record_2 AS (
    alert_id                     text,
    evidence_hash                bytea,
    entity_type                  text,
    evidence_creation_time       timestamptz,
    verdict                      text,
    remediation_status           text,
    sha1                         text,
    sha256                       text,
    file_name                    text,
    file_path                    text,
    process_id                   bigint,
    process_command_line         text,
    process_creation_time        timestamptz,
    parent_process_id            bigint,
    parent_process_creation_time timestamptz,
    ip_address                   text,
    url                          text,
    account_name                 text,
    domain_name                  text,
    user_sid                     text,
    aad_user_id                  text,
    user_principal_name          text,
    mailbox_display_name         text,
    mailbox_address              text,
    cluster_by                   text,
    cluster_by_value             text,
    email_count                  bigint,
    sender                       text,
    recipient                    text,
    subject                      text,
    internet_message_id          text,
    delivery_action              text,
    security_group_id            text,
    security_group_name          text,
    registry_hive                text,
    registry_key                 text,
    registry_value_type          text,
    registry_value               text,
    device_id                    text,
    roles                        text,
    extra                        text
);
COMMENT ON TYPE defender.evidence_record_2 IS 'Row of evidence in an insert statement; arrays and JSON as text';

CREATE OR REPLACE VIEW defender.bounded_state WITH (security_invoker = true, security_barrier = true) AS
SELECT tenant_id,
    CASE WHEN watermark BETWEEN b.earliest AND b.latest THEN watermark END AS watermark,
    CASE WHEN backfilled_at BETWEEN b.earliest AND b.latest THEN backfilled_at END AS backfilled_at,
    CASE WHEN last_attempt_at BETWEEN b.earliest AND b.latest THEN last_attempt_at END AS last_attempt_at,
    CASE WHEN last_success_at BETWEEN b.earliest AND b.latest THEN last_success_at END AS last_success_at,
    CASE WHEN consecutive_failures BETWEEN 0 AND 1000000 THEN consecutive_failures ELSE 0 END AS consecutive_failures,
    CASE WHEN next_attempt_at BETWEEN b.earliest AND b.latest THEN next_attempt_at END AS next_attempt_at,
    CASE WHEN poll_due_at BETWEEN b.earliest AND b.latest THEN poll_due_at END AS poll_due_at,
    CASE WHEN minute_quota_at BETWEEN b.earliest AND b.latest THEN minute_quota_at END AS minute_quota_at,
    CASE WHEN hour_quota_at BETWEEN b.earliest AND b.latest THEN hour_quota_at END AS hour_quota_at,
    CASE WHEN no_calls_before BETWEEN b.earliest AND b.latest THEN no_calls_before END AS no_calls_before,
    CASE WHEN found_late BETWEEN 0 AND 4611686018427387903 THEN found_late ELSE 0 END AS found_late,
    array_remove(ARRAY[
        CASE WHEN watermark NOT BETWEEN b.earliest AND b.latest THEN 'watermark' END,
        CASE WHEN backfilled_at NOT BETWEEN b.earliest AND b.latest THEN 'backfilled_at' END,
        CASE WHEN last_attempt_at NOT BETWEEN b.earliest AND b.latest THEN 'last_attempt_at' END,
        CASE WHEN last_success_at NOT BETWEEN b.earliest AND b.latest THEN 'last_success_at' END,
        CASE WHEN (consecutive_failures BETWEEN 0 AND 1000000) IS NOT TRUE THEN 'consecutive_failures' END,
        CASE WHEN (next_attempt_at BETWEEN b.earliest AND b.latest) IS NOT TRUE THEN 'next_attempt_at' END,
        CASE WHEN (poll_due_at BETWEEN b.earliest AND b.latest) IS NOT TRUE THEN 'poll_due_at' END,
        CASE WHEN (open_due_at BETWEEN b.earliest AND b.latest) IS NOT TRUE THEN 'open_due_at' END,
        CASE WHEN (reconcile_due_at BETWEEN b.earliest AND b.latest) IS NOT TRUE THEN 'reconcile_due_at' END,
        CASE WHEN lease_expires_at NOT BETWEEN b.earliest AND b.latest THEN 'lease_expires_at' END,
        -- One less than the constraint allows: a claim needs the next value.
        CASE WHEN (lease_fence BETWEEN 0 AND 4611686018427387902) IS NOT TRUE THEN 'lease_fence' END,
        CASE WHEN (minute_quota_at BETWEEN b.earliest AND b.latest OR minute_quota_at = '-infinity') IS NOT TRUE
            THEN 'minute_quota_at' END,
        CASE WHEN (hour_quota_at BETWEEN b.earliest AND b.latest OR hour_quota_at = '-infinity') IS NOT TRUE
            THEN 'hour_quota_at' END,
        CASE WHEN (no_calls_before BETWEEN b.earliest AND b.latest OR no_calls_before = '-infinity') IS NOT TRUE
            THEN 'no_calls_before' END,
        CASE WHEN (found_late BETWEEN 0 AND 4611686018427387903) IS NOT TRUE THEN 'found_late' END,
        CASE WHEN alerts_watermark NOT BETWEEN b.earliest AND b.latest THEN 'alerts_watermark' END,
        CASE WHEN (source IN ('defender', 'graph')) IS NOT TRUE THEN 'source' END
    ], NULL) AS out_of_bounds,
    CASE WHEN alerts_watermark BETWEEN b.earliest AND b.latest THEN alerts_watermark END AS alerts_watermark,
    CASE WHEN source IN ('defender', 'graph') THEN source ELSE 'defender' END AS source
FROM defender.sync_state
CROSS JOIN (VALUES (timestamptz '0001-01-01 00:00Z', timestamptz '9999-12-31 23:59:59.999999Z')) AS b(earliest, latest);
COMMENT ON COLUMN defender.bounded_state.alerts_watermark IS 'As in sync_state; NULL if out of bounds';
COMMENT ON COLUMN defender.bounded_state.source IS 'As in sync_state; defender if out of bounds';

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
    i.description, i.summary, i.resolving_comment, i.last_modified_by, i.priority_score, i.system_tags
FROM defender.incidents i
JOIN defender.tenants t USING (tenant_id)
LEFT JOIN defender.summaries s ON s.tenant_id = i.tenant_id
WHERE t.removed_at IS NULL;
COMMENT ON COLUMN reporting.incidents.description IS 'Microsoft''s description of the incident; tenants of source graph only';
COMMENT ON COLUMN reporting.incidents.summary IS 'Overview of the attack; tenants of source graph only';
COMMENT ON COLUMN reporting.incidents.resolving_comment IS 'Comment with which the incident was resolved; tenants of source graph only';
COMMENT ON COLUMN reporting.incidents.last_modified_by IS 'Person or service that last changed the incident; tenants of source graph only';
COMMENT ON COLUMN reporting.incidents.priority_score IS 'Microsoft''s priority of the incident, 0 to 100; tenants of source graph only';
COMMENT ON COLUMN reporting.incidents.system_tags IS 'Tags that Microsoft set; tenants of source graph only';

CREATE OR REPLACE VIEW reporting.alerts WITH (security_invoker = true, security_barrier = true) AS
SELECT a.tenant_id, t.name AS tenant_name, a.alert_id, a.incident_id, a.title, a.category, a.severity, a.status,
    a.service_source, a.detection_source, a.classification, a.determination, a.assigned_to, a.creation_time,
    a.last_updated_time, a.resolved_time, a.first_activity, a.last_activity, a.investigation_state, a.actor_name,
    a.threat_family_name, a.mitre_techniques,
    a.last_seen >= i.last_update_time AS is_listed,
    (SELECT count(*) FROM defender.alert_devices d
        WHERE d.tenant_id = a.tenant_id AND d.alert_id = a.alert_id) AS device_count,
    (SELECT count(*) FROM defender.evidence e
        WHERE e.tenant_id = a.tenant_id AND e.alert_id = a.alert_id) AS evidence_count,
    a.alert_web_url, a.recommended_actions, a.product_name, a.alert_policy_id, a.categories, a.system_tags
FROM defender.alerts a
JOIN defender.tenants t USING (tenant_id)
JOIN defender.incidents i ON i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id
WHERE t.removed_at IS NULL AND NOT i.is_merged;
COMMENT ON COLUMN reporting.alerts.alert_web_url IS 'The alert in Microsoft''s portal; tenants of source graph only';
COMMENT ON COLUMN reporting.alerts.recommended_actions IS 'Recommended response; tenants of source graph only';
COMMENT ON COLUMN reporting.alerts.product_name IS 'Name of the product that published the alert; tenants of source graph only';
COMMENT ON COLUMN reporting.alerts.alert_policy_id IS 'Policy that raised the alert; tenants of source graph only';
COMMENT ON COLUMN reporting.alerts.categories IS 'Categories of the alert, mostly MITRE tactics; tenants of source graph only';
COMMENT ON COLUMN reporting.alerts.system_tags IS 'Tags that Microsoft set; tenants of source graph only';

CREATE OR REPLACE VIEW reporting.evidence WITH (security_invoker = true, security_barrier = true) AS
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
            e.sha256, e.sha1, e.security_group_id, e.user_principal_name, e.account_name, e.device_id,
            -- Entities that only Graph has: their name or id.
            e.extra->>'displayName', e.extra->>'name', e.extra->>'deviceName', e.extra->>'deviceDnsName',
            e.extra->>'hostName', e.extra->>'resourceName', e.extra->>'fullResourceName',
            e.extra->>'servicePrincipalName', e.extra->>'domainName', e.extra->>'activeDirectoryDomainName',
            e.extra->>'agentName', e.extra->>'subject', e.extra->>'mailboxPrimaryAddress', e.extra->>'login',
            e.extra->>'webUrl', e.extra->>'value', e.extra->>'macAddress', e.extra->>'registry', e.extra->>'imageId',
            e.extra->>'containerId', e.extra->>'resourceId', e.extra->>'amazonResourceId', e.extra->>'requestId',
            e.extra->>'sessionId', e.extra->>'messageId', e.extra->>'submissionId', e.extra->>'signatureHash',
            e.extra #>> '{destinationAddress,ipAddress}')
    END AS subject,
    e.evidence_creation_time, e.verdict, e.remediation_status, e.device_id, e.user_principal_name, e.ip_address, e.url,
    e.file_name, e.file_path, e.sha1, e.sha256, e.process_command_line, e.sender, e.recipient, e.roles
FROM defender.evidence e
JOIN defender.tenants t ON t.tenant_id = e.tenant_id
JOIN defender.alerts a ON a.tenant_id = e.tenant_id AND a.alert_id = e.alert_id
JOIN defender.incidents i ON i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id
WHERE t.removed_at IS NULL AND NOT i.is_merged;
COMMENT ON COLUMN reporting.evidence.roles IS 'Roles of the entity in the alert; tenants of source graph only';
COMMENT ON COLUMN reporting.evidence.entity_type IS 'User, Ip, Url, File, Process, MailBox, MailMessage, MailCluster, Registry, SecurityGroup; spelling as served. Source graph adds others, such as CloudApplication or KubernetesPod';

-- An earlier release would read a tenant of source graph through the other API and label the payloads wrongly.
UPDATE defender.schema_info SET oldest_supported = 6;
