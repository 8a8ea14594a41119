-- Row versions: "everything after row_version N" of a table misses no change, as change_id does in the change feed.
--
-- A row_version is the number of the transaction that last changed the row, plus feed_offset (0003_change_feed.sql); all rows
-- of one transaction have the same. It stays below 2^53: a century has room for 500 million crashes. The views show it once
-- every transaction with a lower one has ended, and NULL until then; they never hide the row. Rows that existed before this
-- migration have version 1.
--
-- New rows get it from the default of the column, which costs a tenth of a trigger; a trigger sets it in rows that change.
--
-- Takes about 15 seconds for 12 million rows of evidence: no table is rewritten, but six indexes are built.

CREATE FUNCTION defender.new_row_version() RETURNS bigint
LANGUAGE sql
RETURN CASE
    WHEN split_part(current_setting('incident_sync.feed', true), ' ', 1) = pg_current_xact_id()::text
        THEN split_part(current_setting('incident_sync.feed', true), ' ', 2)::bigint
    ELSE defender.begin_changes()
END >> 20;
COMMENT ON FUNCTION defender.new_row_version IS 'The row_version of the rows that this transaction writes';
REVOKE EXECUTE ON FUNCTION defender.new_row_version FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.new_row_version TO incident_sync_writer;

ALTER TABLE defender.incidents ADD COLUMN row_version bigint NOT NULL DEFAULT 1;
ALTER TABLE defender.incidents ALTER COLUMN row_version SET DEFAULT defender.new_row_version();
COMMENT ON COLUMN defender.incidents.row_version IS 'Position of the last change of the row; read it through reporting.incidents, which shows it once no lower one can appear';
CREATE INDEX incidents_by_version ON defender.incidents (row_version);
ALTER TABLE defender.alerts ADD COLUMN row_version bigint NOT NULL DEFAULT 1;
ALTER TABLE defender.alerts ALTER COLUMN row_version SET DEFAULT defender.new_row_version();
COMMENT ON COLUMN defender.alerts.row_version IS 'Position of the last change of the row; read it through reporting.alerts, which shows it once no lower one can appear';
CREATE INDEX alerts_by_version ON defender.alerts (row_version);
ALTER TABLE defender.devices ADD COLUMN row_version bigint NOT NULL DEFAULT 1;
ALTER TABLE defender.devices ALTER COLUMN row_version SET DEFAULT defender.new_row_version();
COMMENT ON COLUMN defender.devices.row_version IS 'Position of the last change of the row; read it through reporting.devices, which shows it once no lower one can appear';
CREATE INDEX devices_by_version ON defender.devices (row_version);
ALTER TABLE defender.alert_devices ADD COLUMN row_version bigint NOT NULL DEFAULT 1;
ALTER TABLE defender.alert_devices ALTER COLUMN row_version SET DEFAULT defender.new_row_version();
COMMENT ON COLUMN defender.alert_devices.row_version IS 'Position of the last change of the row; read it through reporting.alert_devices, which shows it once no lower one can appear';
CREATE INDEX alert_devices_by_version ON defender.alert_devices (row_version);
ALTER TABLE defender.evidence ADD COLUMN row_version bigint NOT NULL DEFAULT 1;
ALTER TABLE defender.evidence ALTER COLUMN row_version SET DEFAULT defender.new_row_version();
COMMENT ON COLUMN defender.evidence.row_version IS 'Position of the last change of the row; read it through reporting.evidence, which shows it once no lower one can appear';
CREATE INDEX evidence_by_version ON defender.evidence (row_version);
ALTER TABLE defender.incident_comments ADD COLUMN row_version bigint NOT NULL DEFAULT 1;
ALTER TABLE defender.incident_comments ALTER COLUMN row_version SET DEFAULT defender.new_row_version();
COMMENT ON COLUMN defender.incident_comments.row_version IS 'Position of the last change of the row; read it through reporting.comments, which shows it once no lower one can appear';
CREATE INDEX incident_comments_by_version ON defender.incident_comments (row_version);

-- Changed rows. *<> compares the stored bytes, and so any type. "When the row was last written" is in no view.
CREATE FUNCTION defender.set_row_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.row_version := defender.new_row_version();
    RETURN NEW;
END $$;
COMMENT ON FUNCTION defender.set_row_version IS 'Gives a changed row the version of this transaction';
CREATE FUNCTION defender.set_row_version_unless_rewritten() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    OLD.changed_at := NEW.changed_at;
    IF OLD *<> NEW THEN
        NEW.row_version := defender.new_row_version();
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION defender.set_row_version_unless_rewritten IS 'The same for tables with changed_at, which alone is no change';
REVOKE EXECUTE ON FUNCTION defender.set_row_version, defender.set_row_version_unless_rewritten FROM PUBLIC;
-- The names sort behind those of other triggers, whose changes they must see.
CREATE TRIGGER set_row_version BEFORE UPDATE ON defender.incidents
    FOR EACH ROW EXECUTE FUNCTION defender.set_row_version_unless_rewritten();
CREATE TRIGGER set_row_version BEFORE UPDATE ON defender.alerts
    FOR EACH ROW EXECUTE FUNCTION defender.set_row_version_unless_rewritten();
CREATE TRIGGER set_row_version BEFORE UPDATE ON defender.devices
    FOR EACH ROW EXECUTE FUNCTION defender.set_row_version_unless_rewritten();
CREATE TRIGGER set_row_version BEFORE UPDATE ON defender.alert_devices
    FOR EACH ROW WHEN (OLD *<> NEW) EXECUTE FUNCTION defender.set_row_version();
CREATE TRIGGER set_row_version BEFORE UPDATE ON defender.evidence
    FOR EACH ROW WHEN (OLD *<> NEW) EXECUTE FUNCTION defender.set_row_version();
CREATE TRIGGER set_row_version BEFORE UPDATE ON defender.incident_comments
    FOR EACH ROW WHEN (OLD *<> NEW) EXECUTE FUNCTION defender.set_row_version();

-- Deletions. Kept after a purge, or a pipeline would keep what was purged; forget_deletions ends that.
CREATE TABLE defender.deletions (
    deletion_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    row_version bigint NOT NULL DEFAULT defender.new_row_version(),
    tenant_id   uuid NOT NULL,
    view_name   text NOT NULL,
    key         jsonb NOT NULL,
    deleted_at  timestamptz NOT NULL DEFAULT now()
        CONSTRAINT deleted_at_is_bounded CHECK (deleted_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z')
);
CREATE INDEX deletions_by_version ON defender.deletions (row_version);
CREATE INDEX deletions_by_tenant ON defender.deletions (tenant_id, row_version);
COMMENT ON TABLE defender.deletions IS 'Rows that left a view of reporting: keys only, for 90 days, also after a purge';
COMMENT ON COLUMN defender.deletions.deletion_id IS 'Row id';
COMMENT ON COLUMN defender.deletions.row_version IS 'Position of the deletion; read it through reporting.deletions';
COMMENT ON COLUMN defender.deletions.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.deletions.view_name IS 'View of reporting: incidents, alerts, devices, alert_devices, evidence or comments';
COMMENT ON COLUMN defender.deletions.key IS 'Key columns of the row as to_jsonb shows them';
COMMENT ON COLUMN defender.deletions.deleted_at IS 'When the transaction that deleted the row started';
ALTER TABLE defender.deletions
    ALTER COLUMN view_name SET STATISTICS 0,
    ALTER COLUMN key SET STATISTICS 0;
SELECT defender.protect('defender.deletions');
CREATE POLICY owner ON defender.deletions TO CURRENT_USER USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON defender.deletions TO incident_sync_writer;
GRANT SELECT ON defender.deletions TO incident_sync_tenant_reader;

-- The first argument is the view, the others are its key columns.
CREATE FUNCTION defender.note_deletions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('INSERT INTO defender.deletions (tenant_id, view_name, key)
        SELECT k.tenant_id, %L, to_jsonb(k) FROM (SELECT %s FROM deleted) k',
        TG_ARGV[0], (SELECT string_agg(quote_ident(name), ', ') FROM unnest(TG_ARGV[1:]) AS name));
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.note_deletions IS 'Notes the deleted rows of a statement';
CREATE FUNCTION defender.note_departure() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO defender.deletions (tenant_id, view_name, key)
    SELECT OLD.tenant_id, TG_ARGV[0], jsonb_object_agg(name, to_jsonb(OLD) -> name) FROM unnest(TG_ARGV[1:]) AS name;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.note_departure IS 'Notes that an updated row is no longer in a view under its old key';
REVOKE EXECUTE ON FUNCTION defender.note_deletions, defender.note_departure FROM PUBLIC;

CREATE TRIGGER note_deletions AFTER DELETE ON defender.incidents REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_deletions('incidents', 'tenant_id', 'incident_id');
CREATE TRIGGER note_deletions AFTER DELETE ON defender.alerts REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_deletions('alerts', 'tenant_id', 'alert_id');
CREATE TRIGGER note_deletions AFTER DELETE ON defender.devices REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_deletions('devices', 'tenant_id', 'device_id');
CREATE TRIGGER note_deletions AFTER DELETE ON defender.alert_devices REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_deletions('alert_devices', 'tenant_id', 'alert_id', 'device_id');
CREATE TRIGGER note_deletions AFTER DELETE ON defender.evidence REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_deletions('evidence', 'tenant_id', 'alert_id', 'evidence_hash');
CREATE TRIGGER note_deletions AFTER DELETE ON defender.incident_comments REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION defender.note_deletions('comments', 'tenant_id', 'incident_id', 'comment_hash');
-- An erasure gives evidence and comments new keys.
CREATE TRIGGER note_new_key AFTER UPDATE ON defender.incidents FOR EACH ROW
    WHEN (OLD.incident_id <> NEW.incident_id OR OLD.tenant_id <> NEW.tenant_id)
    EXECUTE FUNCTION defender.note_departure('incidents', 'tenant_id', 'incident_id');
CREATE TRIGGER note_new_key AFTER UPDATE ON defender.alerts FOR EACH ROW
    WHEN (OLD.alert_id <> NEW.alert_id OR OLD.tenant_id <> NEW.tenant_id)
    EXECUTE FUNCTION defender.note_departure('alerts', 'tenant_id', 'alert_id');
CREATE TRIGGER note_new_key AFTER UPDATE ON defender.devices FOR EACH ROW
    WHEN (OLD.device_id <> NEW.device_id OR OLD.tenant_id <> NEW.tenant_id)
    EXECUTE FUNCTION defender.note_departure('devices', 'tenant_id', 'device_id');
CREATE TRIGGER note_new_key AFTER UPDATE ON defender.alert_devices FOR EACH ROW
    WHEN (OLD.alert_id <> NEW.alert_id OR OLD.device_id <> NEW.device_id OR OLD.tenant_id <> NEW.tenant_id)
    EXECUTE FUNCTION defender.note_departure('alert_devices', 'tenant_id', 'alert_id', 'device_id');
CREATE TRIGGER note_new_key AFTER UPDATE ON defender.evidence FOR EACH ROW
    WHEN (OLD.alert_id <> NEW.alert_id OR OLD.evidence_hash <> NEW.evidence_hash OR OLD.tenant_id <> NEW.tenant_id)
    EXECUTE FUNCTION defender.note_departure('evidence', 'tenant_id', 'alert_id', 'evidence_hash');
CREATE TRIGGER note_new_key AFTER UPDATE ON defender.incident_comments FOR EACH ROW
    WHEN (OLD.incident_id <> NEW.incident_id OR OLD.comment_hash <> NEW.comment_hash OR OLD.tenant_id <> NEW.tenant_id)
    EXECUTE FUNCTION defender.note_departure('comments', 'tenant_id', 'incident_id', 'comment_hash');

-- With its owner's rights: a tenant that was purged has no runs any more. The oldest first, so that a call costs little.
CREATE FUNCTION defender.forget_deletions() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM defender.deletions
    WHERE deleted_at < now() - interval '90 days'
        AND deletion_id IN (SELECT deletion_id FROM defender.deletions ORDER BY deletion_id LIMIT 20000)
$$;
COMMENT ON FUNCTION defender.forget_deletions IS 'Deletes deletions that are older than 90 days, at most 20,000';
REVOKE EXECUTE ON FUNCTION defender.forget_deletions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.forget_deletions TO incident_sync_writer;

-- As before, and above all row versions as well: an incident may have changed without a row of incident_changes.
CREATE OR REPLACE FUNCTION defender.continue_feed() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    this_transaction constant bigint := pg_current_xact_id()::text::bigint;
    this_server constant bigint := (SELECT system_identifier FROM pg_control_system());
    -- More transactions than a server can lose; bigint has room for half a million crashes.
    leap constant bigint := 1 << 24;
    ahead bigint;
BEGIN
    SELECT i.feed_offset INTO ahead
    FROM defender.schema_info i, defender.feed_server s WHERE s.system_identifier = this_server;
    IF ahead IS NULL THEN
        -- A concurrent call waits here and finds the offset raised.
        PERFORM FROM defender.schema_info FOR UPDATE;
        IF NOT EXISTS (SELECT FROM defender.feed_server WHERE system_identifier = this_server) THEN
            UPDATE defender.schema_info SET feed_offset = leap + greatest(feed_offset, greatest(
                (SELECT max(change_id) >> 20 FROM defender.incident_changes),
                (SELECT max(row_version) FROM defender.incidents), (SELECT max(row_version) FROM defender.alerts),
                (SELECT max(row_version) FROM defender.devices), (SELECT max(row_version) FROM defender.alert_devices),
                (SELECT max(row_version) FROM defender.evidence), (SELECT max(row_version) FROM defender.incident_comments),
                (SELECT max(row_version) FROM defender.deletions)) - this_transaction);
            DELETE FROM defender.feed_server;
            INSERT INTO defender.feed_server (system_identifier) VALUES (this_server);
        END IF;
        SELECT feed_offset INTO ahead FROM defender.schema_info;
    END IF;
    RETURN (this_transaction + ahead) << 20;
END $$;

-- How a view shows row_version without a cost for questions that do not ask for it: an outer join by the key, which the
-- planner removes where the column is not used. A condition on the column turns it into an inner join, which begins with
-- the index on row_version. Both are lost if the column becomes an expression, or if the horizon comes from a subquery.
CREATE VIEW reporting.devices WITH (security_invoker = true, security_barrier = true) AS
SELECT d.tenant_id, t.name AS tenant_name, d.device_id, d.aad_device_id, d.device_dns_name, d.os_platform,
    d.version AS os_version, d.os_processor, d.os_build, d.health_status, d.risk_score, d.rbac_group_id, d.rbac_group_name,
    d.first_seen, d.tags AS device_tags, d.defender_av_status, d.onboarding_status, d.vm_metadata, d.last_seen, v.row_version
FROM defender.devices d
JOIN defender.tenants t ON t.tenant_id = d.tenant_id
LEFT JOIN defender.schema_info f ON f.only_row = (d.tenant_id IS NOT NULL)
LEFT JOIN defender.devices v ON v.tenant_id = d.tenant_id AND v.device_id = d.device_id
    AND v.row_version < pg_snapshot_xmin(pg_current_snapshot())::text::bigint + f.feed_offset
WHERE t.removed_at IS NULL;
COMMENT ON VIEW reporting.devices IS 'One row per device that was in an alert: its newest state. devices_at_risk has those of open incidents';
COMMENT ON COLUMN reporting.devices.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.devices.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.devices.device_id IS 'Microsoft''s id of the device (mdatpDeviceId)';
COMMENT ON COLUMN reporting.devices.aad_device_id IS 'The device''s Entra object id';
COMMENT ON COLUMN reporting.devices.device_dns_name IS 'Name of the device; upper and lower case may differ between alerts';
COMMENT ON COLUMN reporting.devices.os_platform IS 'Operating system';
COMMENT ON COLUMN reporting.devices.os_version IS 'Version of the operating system, such as 1909';
COMMENT ON COLUMN reporting.devices.os_processor IS 'Architecture, such as x64; tenants of source defender only';
COMMENT ON COLUMN reporting.devices.os_build IS 'Build of the operating system';
COMMENT ON COLUMN reporting.devices.health_status IS 'Health of the device''s sensor';
COMMENT ON COLUMN reporting.devices.risk_score IS 'Microsoft''s risk of the device: None, Informational, Low, Medium, High';
COMMENT ON COLUMN reporting.devices.rbac_group_id IS 'Id of the device group';
COMMENT ON COLUMN reporting.devices.rbac_group_name IS 'Device group';
COMMENT ON COLUMN reporting.devices.first_seen IS 'When Defender first saw the device';
COMMENT ON COLUMN reporting.devices.device_tags IS 'Tags of the device';
COMMENT ON COLUMN reporting.devices.defender_av_status IS 'State of the antivirus, such as Updated';
COMMENT ON COLUMN reporting.devices.onboarding_status IS 'Onboarded, CanBeOnboarded, Unsupported or InsufficientInfo';
COMMENT ON COLUMN reporting.devices.vm_metadata IS 'Cloud metadata of a virtual machine, as served';
COMMENT ON COLUMN reporting.devices.last_seen IS 'last_update_time of the incident version with this state';

CREATE VIEW reporting.alert_devices WITH (security_invoker = true, security_barrier = true) AS
SELECT d.tenant_id, t.name AS tenant_name, d.alert_id, d.device_id, v.row_version
FROM defender.alert_devices d
JOIN defender.tenants t ON t.tenant_id = d.tenant_id
LEFT JOIN defender.schema_info f ON f.only_row = (d.tenant_id IS NOT NULL)
LEFT JOIN defender.alert_devices v ON v.tenant_id = d.tenant_id AND v.alert_id = d.alert_id AND v.device_id = d.device_id
    AND v.row_version < pg_snapshot_xmin(pg_current_snapshot())::text::bigint + f.feed_offset
WHERE t.removed_at IS NULL;
COMMENT ON VIEW reporting.alert_devices IS 'One row per alert and device in its newest version, including alerts of merged incidents, which reporting.alerts leaves out';
COMMENT ON COLUMN reporting.alert_devices.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.alert_devices.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.alert_devices.alert_id IS 'Microsoft''s id of the alert, unique within its tenant only';
COMMENT ON COLUMN reporting.alert_devices.device_id IS 'Microsoft''s id of the device (mdatpDeviceId)';

CREATE VIEW reporting.comments WITH (security_invoker = true, security_barrier = true) AS
SELECT c.tenant_id, t.name AS tenant_name, c.incident_id, c.comment_hash, c.comment, c.created_by, c.created_time,
    v.row_version
FROM defender.incident_comments c
JOIN defender.tenants t ON t.tenant_id = c.tenant_id
LEFT JOIN defender.schema_info f ON f.only_row = (c.tenant_id IS NOT NULL)
LEFT JOIN defender.incident_comments v ON v.tenant_id = c.tenant_id AND v.incident_id = c.incident_id
    AND v.comment_hash = c.comment_hash
    AND v.row_version < pg_snapshot_xmin(pg_current_snapshot())::text::bigint + f.feed_offset
WHERE t.removed_at IS NULL;
COMMENT ON VIEW reporting.comments IS 'One row per comment in the newest version of an incident, including merged incidents';
COMMENT ON COLUMN reporting.comments.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.comments.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.comments.incident_id IS 'Microsoft''s number of the incident, unique within its tenant only';
COMMENT ON COLUMN reporting.comments.comment_hash IS 'Identifies the comment within its incident';
COMMENT ON COLUMN reporting.comments.comment IS 'Text of the comment';
COMMENT ON COLUMN reporting.comments.created_by IS 'Author';
COMMENT ON COLUMN reporting.comments.created_time IS 'When Microsoft created the incident; of comments: when the comment was written';

CREATE VIEW reporting.deletions WITH (security_invoker = true, security_barrier = true) AS
SELECT d.row_version, d.tenant_id, d.view_name, d.key, d.deleted_at
FROM defender.deletions d
WHERE d.row_version < (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint + feed_offset FROM defender.schema_info);
COMMENT ON VIEW reporting.deletions IS 'One row per row that left incidents, alerts, devices, alert_devices, evidence or comments: by retention, purge, erasure, a merge, or because Microsoft no longer serves it. Kept for 90 days. A row may come back with a higher row_version';
COMMENT ON COLUMN reporting.deletions.row_version IS 'Position of the last change of the row, as in the change feed: a pipeline stores the greatest one that it has read and queries greater ones. All rows of one transaction have the same. NULL for a moment after a change, while an older transaction runs; in deletions the row appears then';
COMMENT ON COLUMN reporting.deletions.tenant_id IS 'The customer''s Entra tenant. Tenants that left the configuration are in no view';
COMMENT ON COLUMN reporting.deletions.view_name IS 'View that the row left';
COMMENT ON COLUMN reporting.deletions.key IS 'The row''s key columns as to_jsonb shows them';
COMMENT ON COLUMN reporting.deletions.deleted_at IS 'When the transaction that deleted the row started';
COMMENT ON COLUMN reporting.devices.row_version IS 'Position of the last change of the row, as in the change feed: a pipeline stores the greatest one that it has read and queries greater ones. All rows of one transaction have the same. NULL for a moment after a change, while an older transaction runs; in deletions the row appears then';
COMMENT ON COLUMN reporting.alert_devices.row_version IS 'Position of the last change of the row, as in the change feed: a pipeline stores the greatest one that it has read and queries greater ones. All rows of one transaction have the same. NULL for a moment after a change, while an older transaction runs; in deletions the row appears then';
COMMENT ON COLUMN reporting.comments.row_version IS 'Position of the last change of the row, as in the change feed: a pipeline stores the greatest one that it has read and queries greater ones. All rows of one transaction have the same. NULL for a moment after a change, while an older transaction runs; in deletions the row appears then';
GRANT SELECT ON reporting.devices, reporting.alert_devices, reporting.comments, reporting.deletions
    TO incident_sync_reader, incident_sync_tenant_reader;
