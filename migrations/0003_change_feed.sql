-- The change feed: "everything after change_id N" misses no change that is committed late, and no writer waits.
--
-- A change_id consists of the transaction that wrote it and a number within it: (transaction + feed_offset) * 2^20 + number.
-- The view shows the changes of transactions older than the oldest running one, so that no lower change_id can appear later.
-- The offset is raised when the server may reuse transaction numbers whose changes were read: after a crash, a failover or a
-- restore.

CREATE SEQUENCE defender.incident_changes_number AS integer MINVALUE 0 MAXVALUE 1048575 CYCLE;
COMMENT ON SEQUENCE defender.incident_changes_number IS 'Distinguishes the changes of one transaction; cycles';
GRANT USAGE ON SEQUENCE defender.incident_changes_number TO incident_sync_writer;

-- SECURITY DEFINER: the owner may read all changes, as a member of incident_sync_reader.
CREATE FUNCTION defender.continue_feed() RETURNS bigint
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
            UPDATE defender.schema_info SET feed_offset = leap
                + greatest(feed_offset, (SELECT max(change_id) >> 20 FROM defender.incident_changes) - this_transaction);
            DELETE FROM defender.feed_server;
            INSERT INTO defender.feed_server (system_identifier) VALUES (this_server);
        END IF;
        SELECT feed_offset INTO ahead FROM defender.schema_info;
    END IF;
    RETURN (this_transaction + ahead) << 20;
END $$;
COMMENT ON FUNCTION defender.continue_feed IS 'The lowest change_id of this transaction, above all that were ever read';
REVOKE EXECUTE ON FUNCTION defender.continue_feed FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.continue_feed TO incident_sync_writer, incident_sync_dispatcher;

CREATE FUNCTION defender.begin_changes() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lowest constant bigint := defender.continue_feed();
BEGIN
    PERFORM set_config('incident_sync.feed', pg_current_xact_id()::text || ' ' || lowest, true);
    RETURN lowest;
END $$;
COMMENT ON FUNCTION defender.begin_changes IS 'The lowest change_id of this transaction; keeps it in a setting for further rows';
REVOKE EXECUTE ON FUNCTION defender.begin_changes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.begin_changes TO incident_sync_writer;

-- The change_id of each new row: an expression that the planner puts in place of the call, and one call per transaction.
CREATE FUNCTION defender.next_change_id() RETURNS bigint
LANGUAGE sql
RETURN CASE
    WHEN split_part(current_setting('incident_sync.feed', true), ' ', 1) = pg_current_xact_id()::text
        THEN split_part(current_setting('incident_sync.feed', true), ' ', 2)::bigint
    ELSE defender.begin_changes()
END + nextval('defender.incident_changes_number');
COMMENT ON FUNCTION defender.next_change_id IS 'The change_id of a new change';
REVOKE EXECUTE ON FUNCTION defender.next_change_id FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.next_change_id TO incident_sync_writer;
ALTER TABLE defender.incident_changes ALTER COLUMN change_id SET DEFAULT defender.next_change_id();

CREATE VIEW reporting.incident_changes WITH (security_invoker = true, security_barrier = true) AS
SELECT c.change_id, c.tenant_id, t.name AS tenant_name, c.incident_id, c.field, c.old_value, c.new_value, c.changed_at,
    c.observed_at
FROM defender.incident_changes c
JOIN defender.tenants t ON t.tenant_id = c.tenant_id
WHERE c.change_id < (
    SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + feed_offset) << 20 FROM defender.schema_info);
COMMENT ON VIEW reporting.incident_changes IS 'One row per observed change of an incident, including merged incidents and tenants that left the configuration. A pipeline stores the greatest change_id that it has read and queries greater ones, ORDER BY change_id; no lower change_id appears later. A change appears as soon as every transaction of the server that began to write before it has ended. The past changes of a tenant that is granted later have lower change_ids: read that tenant from the start';
COMMENT ON COLUMN reporting.incident_changes.change_id IS 'Position in the feed; increasing, not consecutive';
COMMENT ON COLUMN reporting.incident_changes.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN reporting.incident_changes.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.incident_changes.incident_id IS 'Microsoft''s number of the incident, unique within its tenant only';
COMMENT ON COLUMN reporting.incident_changes.field IS 'created (first version stored; new_value is its status), status, severity, assigned_to, classification, determination, redirect_incident_id, incident_name or tags';
COMMENT ON COLUMN reporting.incident_changes.old_value IS 'Value before the change';
COMMENT ON COLUMN reporting.incident_changes.new_value IS 'Value after the change';
COMMENT ON COLUMN reporting.incident_changes.changed_at IS 'API time: last_update_time of the version with the change; created_time for field created';
COMMENT ON COLUMN reporting.incident_changes.observed_at IS 'When the transaction that stored the change started';
GRANT SELECT ON reporting.incident_changes TO incident_sync_reader, incident_sync_tenant_reader;
