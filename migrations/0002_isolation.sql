-- Who may see and write what: roles, and row-level security forced on every table with a tenant_id.
--
-- incident_sync_writer         writes the data of the one tenant that its transaction names
-- incident_sync_dispatcher     keeps the books of all tenants (names, due times, leases) and sees no customer's data
-- incident_sync_reader         reads all tenants
-- incident_sync_tenant_reader  reads the tenants that grant-reader gave to the role that logged in
--
-- The user that migrates becomes a member of the first three and takes one of them on in each transaction, so that not
-- even a superuser's connection writes past the policies by mistake.

DO $$
DECLARE
    role text;
    roles constant text[] := ARRAY['incident_sync_writer', 'incident_sync_dispatcher', 'incident_sync_reader',
                                   'incident_sync_tenant_reader'];
    -- Roles belong to the server: another database of it may have some already, and only what is missing can be run.
    hint constant text := concat_ws('; ',
        (SELECT string_agg(format('CREATE ROLE %I NOLOGIN', name), '; ') FROM unnest(roles) name
            WHERE name NOT IN (SELECT rolname FROM pg_roles)),
        (SELECT format('GRANT %s TO %I', string_agg(quote_ident(name), ', '), current_user) FROM unnest(roles[1:3]) name
            WHERE name NOT IN (SELECT rolname FROM pg_roles WHERE pg_has_role(current_user, oid, 'USAGE'))));
BEGIN
    FOREACH role IN ARRAY roles LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            -- Another database's migration made it at this moment.
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END;
        END IF;
        IF role <> 'incident_sync_tenant_reader' AND NOT pg_has_role(current_user, role, 'USAGE') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION USING
        ERRCODE = 'insufficient_privilege',
        MESSAGE = format('%I may not create the roles of incident-sync; let a superuser run once: %s', current_user, hint);
END $$;

CREATE TABLE defender.reader_tenants (
    reader    name NOT NULL,
    tenant_id uuid NOT NULL,
    PRIMARY KEY (reader, tenant_id)
);
COMMENT ON TABLE defender.reader_tenants IS 'Which tenants a role sees that is a member of incident_sync_tenant_reader; written by grant-reader';

CREATE FUNCTION defender.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
-- Empty after a transaction that had set it, and absent in a new session: both are no tenant.
AS $$ SELECT nullif(current_setting('incident_sync.tenant_id', true), '')::uuid $$;
COMMENT ON FUNCTION defender.current_tenant IS 'The one tenant that the writer''s transaction may touch';
REVOKE EXECUTE ON FUNCTION defender.current_tenant FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.current_tenant TO incident_sync_writer;

-- By the role that logged in, which no SET changes. The owner of this function reads reader_tenants, its callers cannot.
CREATE FUNCTION defender.my_tenants() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT granted.tenant_id
    FROM defender.reader_tenants granted
    JOIN pg_catalog.pg_roles role ON role.rolname = granted.reader
    WHERE pg_catalog.pg_has_role(session_user, role.oid, 'USAGE')
$$;
COMMENT ON FUNCTION defender.my_tenants IS 'The tenants that the role that logged in may read';
REVOKE EXECUTE ON FUNCTION defender.my_tenants FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.my_tenants TO incident_sync_tenant_reader;

-- Each policy names its role: one for PUBLIC would hold for all others too.
CREATE FUNCTION defender.protect(unprotected regclass) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', unprotected);
    EXECUTE format('CREATE POLICY reader ON %s FOR SELECT TO incident_sync_reader USING (true)', unprotected);
    EXECUTE format('CREATE POLICY tenant_reader ON %s FOR SELECT TO incident_sync_tenant_reader '
        'USING (tenant_id = ANY (ARRAY(SELECT defender.my_tenants())))', unprotected);
    EXECUTE format('CREATE POLICY writer ON %s TO incident_sync_writer '
        'USING (tenant_id = (SELECT defender.current_tenant())) '
        'WITH CHECK (tenant_id = (SELECT defender.current_tenant()))', unprotected);
    EXECUTE format('GRANT SELECT ON %s TO incident_sync_reader', unprotected);
END $$;
COMMENT ON FUNCTION defender.protect IS 'Forces row-level security on a table with tenant_id; for migrations';
REVOKE EXECUTE ON FUNCTION defender.protect FROM PUBLIC;

SELECT defender.protect(unprotected::regclass)
FROM unnest(ARRAY['defender.tenants', 'defender.incidents', 'defender.alerts', 'defender.devices',
    'defender.alert_devices', 'defender.evidence', 'defender.incident_comments', 'defender.incident_changes',
    'defender.incident_payloads', 'defender.rejected_payloads', 'defender.sync_state', 'defender.sync_runs'])
    AS unprotected;

ALTER TABLE defender.reader_tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON defender.reader_tenants TO CURRENT_USER USING (true) WITH CHECK (true);
CREATE POLICY dispatcher ON defender.tenants TO incident_sync_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY dispatcher ON defender.sync_state TO incident_sync_dispatcher USING (true) WITH CHECK (true);

GRANT USAGE ON SCHEMA defender
    TO incident_sync_writer, incident_sync_dispatcher, incident_sync_reader, incident_sync_tenant_reader;
GRANT SELECT, INSERT, UPDATE ON defender.tenants, defender.sync_state TO incident_sync_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    defender.incidents, defender.alerts, defender.devices, defender.alert_devices, defender.evidence,
    defender.incident_comments, defender.incident_changes, defender.incident_payloads, defender.rejected_payloads
    TO incident_sync_writer;
GRANT SELECT, UPDATE ON defender.sync_state TO incident_sync_writer;
GRANT SELECT, INSERT ON defender.sync_runs TO incident_sync_writer;
-- Which host works on a tenant is nobody's business but the operator's.
GRANT SELECT ON
    defender.tenants, defender.incidents, defender.alerts, defender.devices, defender.alert_devices, defender.evidence,
    defender.incident_comments, defender.incident_changes, defender.incident_payloads, defender.rejected_payloads
    TO incident_sync_tenant_reader;
GRANT SELECT (tenant_id, watermark, backfilled_at, last_attempt_at, last_success_at, consecutive_failures,
    next_attempt_at, parked_reason, error_class, error_message, who_must_act)
    ON defender.sync_state TO incident_sync_tenant_reader;

-- Quotas hold for all instances together and over restarts: each call takes its place in line here.
ALTER TABLE defender.sync_state
    ADD COLUMN minute_quota_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN hour_quota_at   timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN no_calls_before timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN found_late      bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN defender.sync_state.minute_quota_at IS 'When the calls made so far are used up at the steady rate of the minute''s quota';
COMMENT ON COLUMN defender.sync_state.hour_quota_at IS 'The same for the hour''s quota';
COMMENT ON COLUMN defender.sync_state.no_calls_before IS 'The service asked for a pause until then (Retry-After)';
COMMENT ON COLUMN defender.sync_state.found_late IS 'Incident versions behind the watermark that no poll had stored and a later reading found; should stay 0';
ALTER TABLE defender.sync_runs ADD COLUMN found_late integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN defender.sync_runs.found_late IS 'Incident versions that this run found and an earlier poll should have';

CREATE TABLE defender.schema_info (
    only_row         boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    oldest_supported bigint NOT NULL
);
COMMENT ON TABLE defender.schema_info IS 'Which releases may work with this schema';
COMMENT ON COLUMN defender.schema_info.oldest_supported IS 'A binary whose newest migration is older than this one stops; a migration that an older binary cannot live with raises it';
INSERT INTO defender.schema_info (oldest_supported) VALUES (2);
GRANT SELECT ON defender.schema_info TO incident_sync_dispatcher, incident_sync_reader;
-- The migrator's own table: a daemon that does not own the schema looks there for the schema's version.
GRANT SELECT ON _sqlx_migrations TO incident_sync_dispatcher, incident_sync_reader;

CREATE SCHEMA IF NOT EXISTS reporting;
COMMENT ON SCHEMA reporting IS 'Views for reports: what dashboards and pipelines bind to';
GRANT USAGE ON SCHEMA reporting TO incident_sync_reader, incident_sync_tenant_reader;

-- With the reader's own rights (else the view's owner would see for everybody), and with nothing of the reader's evaluated
-- before the policies are.
CREATE VIEW reporting.tenant_freshness WITH (security_invoker = true, security_barrier = true) AS
SELECT t.tenant_id, t.name AS tenant_name, t.labels, t.enabled, s.watermark AS data_as_of,
    s.last_success_at, extract(epoch FROM now() - s.last_success_at)::double precision AS lag_seconds,
    s.backfilled_at IS NOT NULL AS history_complete, s.consecutive_failures, s.error_class, s.error_message,
    s.who_must_act
FROM defender.tenants t
LEFT JOIN defender.sync_state s USING (tenant_id)
WHERE t.removed_at IS NULL;
COMMENT ON VIEW reporting.tenant_freshness IS 'How old the data of each tenant is and who must act: what every dashboard should show beside its numbers';
COMMENT ON COLUMN reporting.tenant_freshness.data_as_of IS 'Every incident version with an earlier lastUpdateTime is stored';
COMMENT ON COLUMN reporting.tenant_freshness.lag_seconds IS 'Seconds since everything up to then was stored; NULL before the first success';
COMMENT ON COLUMN reporting.tenant_freshness.history_complete IS 'Whether the first synchronisation is complete';
COMMENT ON COLUMN reporting.tenant_freshness.who_must_act IS 'developers, operator, customer_admin or nobody (waiting helps); NULL when all is well';
GRANT SELECT ON reporting.tenant_freshness TO incident_sync_reader, incident_sync_tenant_reader;
