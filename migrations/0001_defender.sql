-- The tables that hold what Microsoft 365 Defender knows, and the state of the synchronisation.
-- Every key begins with tenant_id so that the database can be partitioned or distributed by tenant.
-- There are no foreign keys: a trigger for each of the 600,000 evidence rows of a first load costs more than it proves,
-- and alerts move between incidents that may not have been read yet.

CREATE SCHEMA IF NOT EXISTS defender;
COMMENT ON SCHEMA defender IS 'Incidents of Microsoft 365 Defender for many customer tenants, kept current by incident-sync';

CREATE TABLE defender.tenants (
    tenant_id     uuid PRIMARY KEY,
    name          text NOT NULL,
    labels        jsonb NOT NULL DEFAULT '{}',
    enabled       boolean NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    removed_at    timestamptz
);
COMMENT ON TABLE defender.tenants IS 'Customer tenants that are or were in the configuration';
COMMENT ON COLUMN defender.tenants.name IS 'The operator''s name for the customer, from the configuration';
COMMENT ON COLUMN defender.tenants.removed_at IS 'When the tenant left the configuration; its data stays until it is purged';

CREATE TABLE defender.incidents (
    tenant_id            uuid NOT NULL,
    incident_id          bigint NOT NULL,
    incident_uri         text,
    redirect_incident_id bigint,
    incident_name        text,
    created_time         timestamptz,
    last_update_time     timestamptz NOT NULL,
    assigned_to          text,
    classification       text,
    determination        text,
    status               text,
    severity             text,
    detection_source     text,
    tags                 text[],
    first_synced_at      timestamptz NOT NULL DEFAULT now(),
    changed_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, incident_id)
);
COMMENT ON TABLE defender.incidents IS 'One row an incident: the newest version that the API served';
COMMENT ON COLUMN defender.incidents.incident_id IS 'Unique within its tenant only';
COMMENT ON COLUMN defender.incidents.redirect_incident_id IS 'The incident that this one was merged into; NULL when not merged';
COMMENT ON COLUMN defender.incidents.last_update_time IS 'The API''s lastUpdateTime, truncated down to microseconds';
COMMENT ON COLUMN defender.incidents.first_synced_at IS 'When this database first saw the incident';
COMMENT ON COLUMN defender.incidents.changed_at IS 'When this row was last written';

CREATE TABLE defender.alerts (
    tenant_id           uuid NOT NULL,
    alert_id            text NOT NULL,
    incident_id         bigint NOT NULL,
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
    mitre_techniques    text[],
    last_seen           timestamptz NOT NULL,
    changed_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, alert_id)
);
COMMENT ON TABLE defender.alerts IS 'One row an alert. An alert moves between incidents (merges) and is never deleted';
COMMENT ON COLUMN defender.alerts.incident_id IS 'The incident that listed the alert in its newest version';
COMMENT ON COLUMN defender.alerts.last_seen IS 'last_update_time of the newest incident version that listed the alert; older than its incident''s own last_update_time means that the incident lists it no more';

CREATE TABLE defender.devices (
    tenant_id          uuid NOT NULL,
    device_id          text NOT NULL,
    aad_device_id      text,
    device_dns_name    text,
    os_platform        text,
    version            text,
    os_processor       text,
    os_build           bigint,
    health_status      text,
    risk_score         text,
    rbac_group_id      bigint,
    rbac_group_name    text,
    first_seen         timestamptz,
    tags               text[],
    defender_av_status text,
    onboarding_status  text,
    vm_metadata        jsonb,
    last_seen          timestamptz NOT NULL,
    changed_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, device_id)
);
COMMENT ON TABLE defender.devices IS 'One row a device: the newest state that any alert carried';
COMMENT ON COLUMN defender.devices.device_id IS 'The API''s mdatpDeviceId';
COMMENT ON COLUMN defender.devices.last_seen IS 'last_update_time of the incident version that carried this state';

CREATE TABLE defender.alert_devices (
    tenant_id uuid NOT NULL,
    alert_id  text NOT NULL,
    device_id text NOT NULL,
    PRIMARY KEY (tenant_id, alert_id, device_id)
);
COMMENT ON TABLE defender.alert_devices IS 'Which devices the newest version of an alert names';

CREATE TABLE defender.evidence (
    tenant_id                    uuid NOT NULL,
    alert_id                     text NOT NULL,
    evidence_hash                bytea NOT NULL,
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
    extra                        jsonb,
    PRIMARY KEY (tenant_id, alert_id, evidence_hash)
);
COMMENT ON TABLE defender.evidence IS 'One row an entity of the newest version of an alert (the API''s entities)';
COMMENT ON COLUMN defender.evidence.evidence_hash IS 'The API gives entities no id: a hash over the entity without verdict and remediation status, which change';
COMMENT ON COLUMN defender.evidence.extra IS 'Keys of the entity that incident-sync does not know, as served';

CREATE TABLE defender.incident_comments (
    tenant_id    uuid NOT NULL,
    incident_id  bigint NOT NULL,
    comment_hash bytea NOT NULL,
    comment      text,
    created_by   text,
    created_time timestamptz,
    PRIMARY KEY (tenant_id, incident_id, comment_hash)
);
COMMENT ON TABLE defender.incident_comments IS 'Comments of the newest version of an incident';

CREATE TABLE defender.incident_changes (
    change_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    incident_id bigint NOT NULL,
    field       text NOT NULL,
    old_value   text,
    new_value   text,
    changed_at  timestamptz,
    observed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX incident_changes_by_incident ON defender.incident_changes (tenant_id, incident_id);
COMMENT ON TABLE defender.incident_changes IS 'One row for each observed change of an incident field; never updated';
COMMENT ON COLUMN defender.incident_changes.field IS 'created (first sight; new_value is the status seen then), status, severity, assigned_to, classification, determination, redirect_incident_id, incident_name or tags';
COMMENT ON COLUMN defender.incident_changes.changed_at IS 'The API''s time: lastUpdateTime of the version that showed the change; createdTime for field created';
COMMENT ON COLUMN defender.incident_changes.observed_at IS 'When incident-sync saw it';

CREATE TABLE defender.incident_payloads (
    tenant_id    uuid NOT NULL,
    incident_id  bigint NOT NULL,
    content_hash bytea NOT NULL,
    payload      jsonb NOT NULL,
    PRIMARY KEY (tenant_id, incident_id)
);
COMMENT ON TABLE defender.incident_payloads IS 'The newest version of each incident as the API served it, apart from incidents so that scans stay small';
COMMENT ON COLUMN defender.incident_payloads.content_hash IS 'Hash of the served text: an unchanged incident is recognised without decoding it';
DO $$
BEGIN
    ALTER TABLE defender.incident_payloads ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    RAISE NOTICE 'this PostgreSQL was built without lz4: payloads are compressed with pglz, which makes first loads slower';
END $$;

CREATE TABLE defender.rejected_payloads (
    rejected_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    incident_id bigint,
    reason      text NOT NULL,
    payload     text NOT NULL,
    content_hash bytea NOT NULL,
    observed_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, content_hash)
);
COMMENT ON TABLE defender.rejected_payloads IS 'Incidents that could not be decoded, kept until a later version can be';

CREATE TABLE defender.sync_state (
    tenant_id            uuid PRIMARY KEY,
    watermark            timestamptz,
    backfilled_at        timestamptz,
    last_attempt_at      timestamptz,
    last_success_at      timestamptz,
    consecutive_failures integer NOT NULL DEFAULT 0,
    next_attempt_at      timestamptz NOT NULL DEFAULT now(),
    poll_due_at          timestamptz NOT NULL DEFAULT now(),
    open_due_at          timestamptz NOT NULL DEFAULT now(),
    reconcile_due_at     timestamptz NOT NULL DEFAULT now(),
    parked_reason        text,
    error_class          text,
    error_message        text,
    who_must_act         text,
    lease_owner          text,
    lease_fence          bigint NOT NULL DEFAULT 0,
    lease_expires_at     timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE defender.sync_state IS 'One row a tenant: how far it is synchronised, when it is due, what is wrong, and which instance works on it';
COMMENT ON COLUMN defender.sync_state.watermark IS 'Every incident version with an earlier lastUpdateTime is stored';
COMMENT ON COLUMN defender.sync_state.backfilled_at IS 'When the first synchronisation was complete; NULL while history is still being read';
COMMENT ON COLUMN defender.sync_state.next_attempt_at IS 'No request for this tenant before this time (back-off, Retry-After, parked)';
COMMENT ON COLUMN defender.sync_state.parked_reason IS 'Why the tenant waits for a person; it is still tried once an hour';
COMMENT ON COLUMN defender.sync_state.who_must_act IS 'developers, operator, customer_admin or nobody (waiting helps)';
COMMENT ON COLUMN defender.sync_state.lease_fence IS 'Grows with each claim; every write transaction checks it';

CREATE TABLE defender.sync_runs (
    run_id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id         uuid NOT NULL,
    instance          text NOT NULL,
    kind              text NOT NULL,
    started_at        timestamptz NOT NULL,
    finished_at       timestamptz NOT NULL,
    outcome           text NOT NULL,
    window_from       timestamptz,
    window_to         timestamptz,
    api_calls         integer NOT NULL,
    throttled         integer NOT NULL,
    incidents_seen    integer NOT NULL,
    incidents_written integer NOT NULL,
    alerts_written    integer NOT NULL,
    rejected          integer NOT NULL,
    mistyped_fields   integer NOT NULL,
    error_class       text,
    error_message     text
);
CREATE INDEX sync_runs_by_tenant ON defender.sync_runs (tenant_id, run_id);
COMMENT ON TABLE defender.sync_runs IS 'One row for each finished run of one tenant';
COMMENT ON COLUMN defender.sync_runs.kind IS 'poll, open, reconcile, backfill or manual';
COMMENT ON COLUMN defender.sync_runs.outcome IS 'ok, failed, throttled, parked or stopped';
COMMENT ON COLUMN defender.sync_runs.throttled IS 'How many answers were 429';
COMMENT ON COLUMN defender.sync_runs.mistyped_fields IS 'Optional fields that had an unexpected type and were stored as NULL';

-- How the two widest tables are written: one array of records is read by the server nine times faster than one array for
-- each of their columns. A release that adds a column adds a type of its own, so that an older binary still finds its.
CREATE TYPE defender.alert_record AS (
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
    last_seen           timestamptz
);
COMMENT ON TYPE defender.alert_record IS 'A row of alerts on its way into the table; arrays as their text';

CREATE TYPE defender.evidence_record AS (
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
    extra                        text
);
COMMENT ON TYPE defender.evidence_record IS 'A row of evidence on its way into the table; JSON as its text';
