-- The feed of changes: "everything after change_id N" misses no change that is committed late, and no writer waits.
--
-- A change_id is made of the transaction that wrote it and a number within: (transaction + feed_offset) * 2^20 + number. The
-- view shows the changes of transactions older than the oldest one that runs, so that nothing can come in below what was
-- read. The offset is raised when the server may number transactions anew that somebody has read changes of: after a crash,
-- a failover or a restore.

ALTER TABLE defender.incident_changes ALTER COLUMN change_id DROP IDENTITY;
CREATE SEQUENCE defender.incident_changes_number AS integer MINVALUE 0 MAXVALUE 1048575 CYCLE;
COMMENT ON SEQUENCE defender.incident_changes_number IS 'Tells apart the changes of one transaction; goes round';
GRANT USAGE ON SEQUENCE defender.incident_changes_number TO incident_sync_writer;

ALTER TABLE defender.schema_info ADD COLUMN feed_offset bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN defender.schema_info.feed_offset IS 'Added to the number of a transaction in a change_id';
GRANT SELECT ON defender.schema_info TO incident_sync_tenant_reader;

-- Unlogged: Postgres empties it when it recovers, which is how we learn that it did.
CREATE UNLOGGED TABLE defender.feed_server (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    system_identifier bigint NOT NULL
);
ALTER TABLE defender.feed_server ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON defender.feed_server TO CURRENT_USER USING (true) WITH CHECK (true);
COMMENT ON TABLE defender.feed_server IS 'The server for which feed_offset holds; empty after a crash, a failover or a restore';
COMMENT ON COLUMN defender.feed_server.only_row IS 'Keeps it at one row';
COMMENT ON COLUMN defender.feed_server.system_identifier IS 'Tells a restored dump from the server that it was taken from';

-- Its owner may read all changes, as a member of incident_sync_reader.
CREATE FUNCTION defender.continue_feed() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    this_transaction constant bigint := pg_current_xact_id()::text::bigint;
    this_server constant bigint := (SELECT system_identifier FROM pg_control_system());
    -- More transactions than a server can have forgotten; bigint has room for half a million crashes.
    leap constant bigint := 1 << 24;
    ahead bigint;
BEGIN
    SELECT i.feed_offset INTO ahead
    FROM defender.schema_info i, defender.feed_server s WHERE s.system_identifier = this_server;
    IF ahead IS NULL THEN
        -- Who comes second waits here and finds it done.
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
COMMENT ON FUNCTION defender.continue_feed IS 'The lowest change_id of this transaction, above all that was ever read';
REVOKE EXECUTE ON FUNCTION defender.continue_feed FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.continue_feed TO incident_sync_writer, incident_sync_dispatcher;

CREATE FUNCTION defender.next_change_id() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    this_transaction constant text := pg_current_xact_id()::text;
    -- What continue_feed said to this transaction: asking it for each row would cost more than the row.
    known constant text[] := string_to_array(current_setting('incident_sync.feed', true), ' ');
    lowest bigint := known[2];
BEGIN
    IF known[1] IS DISTINCT FROM this_transaction THEN
        lowest := defender.continue_feed();
        PERFORM set_config('incident_sync.feed', this_transaction || ' ' || lowest, true);
    END IF;
    RETURN lowest + nextval('defender.incident_changes_number');
END $$;
COMMENT ON FUNCTION defender.next_change_id IS 'The change_id of a new change';
REVOKE EXECUTE ON FUNCTION defender.next_change_id FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.next_change_id TO incident_sync_writer;
ALTER TABLE defender.incident_changes ALTER COLUMN change_id SET DEFAULT defender.next_change_id();
COMMENT ON COLUMN defender.incident_changes.change_id IS 'Grows with the transactions that wrote the changes; which changes may still come in below others, reporting.incident_changes knows';

-- What a reader of a few tenants asks for: else it would read past everybody else's changes each time.
CREATE INDEX incident_changes_by_tenant ON defender.incident_changes (tenant_id, change_id);

CREATE VIEW reporting.incident_changes WITH (security_invoker = true, security_barrier = true) AS
SELECT c.change_id, c.tenant_id, t.name AS tenant_name, c.incident_id, c.field, c.old_value, c.new_value, c.changed_at,
    c.observed_at
FROM defender.incident_changes c
JOIN defender.tenants t ON t.tenant_id = c.tenant_id
WHERE c.change_id < (
    SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + feed_offset) << 20 FROM defender.schema_info);
COMMENT ON VIEW reporting.incident_changes IS 'One row a change of an incident that we saw, merged incidents and tenants that left the configuration included. Pipelines store the greatest change_id that they have read and ask for what is greater, ORDER BY change_id: nothing comes in below. A change is shown as soon as every transaction of the server that began to write before it has ended. A role that is granted another tenant reads that tenant''s past from the start';
COMMENT ON COLUMN reporting.incident_changes.change_id IS 'The position: always growing, with gaps';
COMMENT ON COLUMN reporting.incident_changes.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN reporting.incident_changes.tenant_name IS 'The operator''s name for the customer';
COMMENT ON COLUMN reporting.incident_changes.incident_id IS 'Microsoft''s number of the incident, unique within its tenant only';
COMMENT ON COLUMN reporting.incident_changes.field IS 'created (first sight; new_value is the status seen then), status, severity, assigned_to, classification, determination, redirect_incident_id, incident_name or tags';
COMMENT ON COLUMN reporting.incident_changes.old_value IS 'The value before';
COMMENT ON COLUMN reporting.incident_changes.new_value IS 'The value since';
COMMENT ON COLUMN reporting.incident_changes.changed_at IS 'Microsoft''s time: last_update_time of the version that showed the change; created_time for field created';
COMMENT ON COLUMN reporting.incident_changes.observed_at IS 'When the transaction began that stored it';
GRANT SELECT ON reporting.incident_changes TO incident_sync_reader, incident_sync_tenant_reader;
