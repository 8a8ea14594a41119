-- The end of data: purges, retention, restoring and erasing, and what stays to tell of them.

CREATE TABLE defender.audit (
    audit_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    happened_at timestamptz NOT NULL DEFAULT now(),
    action      text NOT NULL,
    actor       text NOT NULL,
    row_counts  jsonb NOT NULL
);
CREATE INDEX audit_by_tenant ON defender.audit (tenant_id, audit_id);
COMMENT ON TABLE defender.audit IS 'What was deleted, restored or erased, by whom; outlives the tenant''s data and holds none of it';
COMMENT ON COLUMN defender.audit.audit_id IS 'Number of the row';
COMMENT ON COLUMN defender.audit.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.audit.happened_at IS 'When';
COMMENT ON COLUMN defender.audit.action IS 'purge begun, purged, retention, restored, person erased';
COMMENT ON COLUMN defender.audit.actor IS 'User of the operating system and host, or the daemon''s instance';
COMMENT ON COLUMN defender.audit.row_counts IS 'Rows by table';
SELECT defender.protect('defender.audit');
GRANT SELECT, INSERT ON defender.audit TO incident_sync_writer;
ALTER TABLE defender.audit ALTER COLUMN action SET STATISTICS 0, ALTER COLUMN actor SET STATISTICS 0,
    ALTER COLUMN row_counts SET STATISTICS 0;

-- A purge deletes a tenant everywhere, and restoring puts it back; the policies hold both to one tenant.
GRANT SELECT, INSERT, UPDATE, DELETE ON defender.tenants, defender.sync_state, defender.sync_runs, defender.sync_gaps
    TO incident_sync_writer;
-- Who sees which tenant is the migrator's table; a purge ends what was granted of its tenant and sees nothing of the rest.
CREATE FUNCTION defender.forget_readers() RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH gone AS (
        DELETE FROM defender.reader_tenants
        WHERE tenant_id = nullif(current_setting('incident_sync.tenant_id', true), '')::uuid
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION defender.forget_readers IS 'Ends all grants of the tenant of the writer''s transaction';
REVOKE EXECUTE ON FUNCTION defender.forget_readers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.forget_readers TO incident_sync_writer;
