-- Who may see and write what: roles, and row-level security forced on every table with a tenant_id.
--
-- incident_sync_writer         writes the data of the one tenant that its transaction names
-- incident_sync_dispatcher     maintains names, due times and leases of all tenants; reads no customer data
-- incident_sync_reader         reads all tenants
-- incident_sync_tenant_reader  reads the tenants that grant-reader granted to the current role
--
-- The user that migrates becomes a member of the first three and sets one of them in each transaction, so that the
-- policies apply to the connection of a superuser as well.

DO $$
DECLARE
    role text;
    roles constant text[] := ARRAY['incident_sync_writer', 'incident_sync_dispatcher', 'incident_sync_reader',
                                   'incident_sync_tenant_reader'];
    -- Roles belong to the server: another database of it may have created some already.
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
            -- A migration of another database has just created it.
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

-- A grant is valid for one role, identified by oid and name: a role that is created again under the same name has another
-- oid, a renamed role has another name, and on another server a restored dump finds other oids. Each of these roles sees
-- nothing until grant-reader runs.
CREATE TABLE defender.reader_tenants (
    reader     name NOT NULL,
    tenant_id  uuid NOT NULL,
    reader_oid oid NOT NULL,
    PRIMARY KEY (reader, tenant_id)
);
COMMENT ON TABLE defender.reader_tenants IS 'Tenants that each member of incident_sync_tenant_reader may read; written by grant-reader';
COMMENT ON COLUMN defender.reader_tenants.reader IS 'Name of the role when the grant was made; the grant is valid while both oid and name match the role';
COMMENT ON COLUMN defender.reader_tenants.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.reader_tenants.reader_oid IS 'oid of the role when the grant was made';
ALTER TABLE defender.reader_tenants ALTER COLUMN tenant_id SET STATISTICS 0;

-- Names inside functions resolve the same for every caller, independent of its search_path.
-- A role that may create functions in a schema of the caller's path (public in an upgraded cluster; "$user", which after
-- SET ROLE is a schema named like one of the roles of incident-sync) could otherwise provide an overload that fits better
-- than the built-in function, and it would run with the caller's rights. SET keeps the planner from inlining a function.
-- Those that it inlines have a body that Postgres parses when the function is defined.
CREATE FUNCTION defender.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
-- Empty after a transaction that set it, absent in a new session: both mean no tenant.
RETURN nullif(current_setting('incident_sync.tenant_id', true), '')::uuid;
COMMENT ON FUNCTION defender.current_tenant IS 'The tenant that the transaction of the writer may read and write';
REVOKE EXECUTE ON FUNCTION defender.current_tenant FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.current_tenant TO incident_sync_writer;

-- The owner of this function reads reader_tenants, its callers cannot.
--
-- SET ROLE narrows: a tool that logs in once and acts as one reader for each of its users shows that reader's tenants only.
-- A role set with SET ROLE need not be inherited by the login (NOINHERIT), so membership is enough there. The setting `role`
-- is the only trace of SET ROLE that a SECURITY DEFINER function has; no role can be called "none". It keeps the name that
-- was set: of a role that was dropped or renamed since, no row is found and no tenant is shown.
CREATE FUNCTION defender.my_tenants() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT granted.tenant_id
    FROM defender.reader_tenants granted
    JOIN pg_catalog.pg_roles reader ON reader.oid = granted.reader_oid AND reader.rolname = granted.reader
    JOIN pg_catalog.pg_roles acting ON acting.rolname = CASE pg_catalog.current_setting('role')
        WHEN 'none' THEN session_user ELSE pg_catalog.current_setting('role')::pg_catalog.name END
    WHERE pg_catalog.pg_has_role(session_user, reader.oid, 'MEMBER')
        AND pg_catalog.pg_has_role(acting.oid, reader.oid, 'USAGE')
$$;
COMMENT ON FUNCTION defender.my_tenants IS 'The tenants that the current role may read: the role of SET ROLE, otherwise the login role';
REVOKE EXECUTE ON FUNCTION defender.my_tenants FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.my_tenants TO incident_sync_tenant_reader;

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
COMMENT ON FUNCTION defender.forget_readers IS 'Deletes all grants on the tenant of the writer''s transaction';
REVOKE EXECUTE ON FUNCTION defender.forget_readers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.forget_readers TO incident_sync_writer;

-- Each policy names its role: a policy for PUBLIC would apply to all other roles too.
--
-- EXPLAIN shows every role what the planner expects. With statistics on tenant_id it is the number of rows of any tenant id
-- that a reader guesses, and directory ids are public. Without them it is the same number for every id.
CREATE FUNCTION defender.protect(unprotected regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', unprotected);
    EXECUTE format('ALTER TABLE %s ALTER COLUMN tenant_id SET STATISTICS 0', unprotected);
    EXECUTE format('CREATE POLICY reader ON %s FOR SELECT TO incident_sync_reader USING (true)', unprotected);
    EXECUTE format('CREATE POLICY tenant_reader ON %s FOR SELECT TO incident_sync_tenant_reader '
        'USING (tenant_id = ANY (ARRAY(SELECT defender.my_tenants())))', unprotected);
    EXECUTE format('CREATE POLICY writer ON %s TO incident_sync_writer '
        'USING (tenant_id = (SELECT defender.current_tenant())) '
        'WITH CHECK (tenant_id = (SELECT defender.current_tenant()))', unprotected);
    EXECUTE format('GRANT SELECT ON %s TO incident_sync_reader', unprotected);
END $$;
COMMENT ON FUNCTION defender.protect IS 'Forces row-level security on a table with tenant_id and disables statistics on tenant_id; for migrations';
REVOKE EXECUTE ON FUNCTION defender.protect FROM PUBLIC;

SELECT defender.protect(unprotected::regclass)
FROM unnest(ARRAY['defender.tenants', 'defender.incidents', 'defender.alerts', 'defender.devices',
    'defender.alert_devices', 'defender.evidence', 'defender.incident_comments', 'defender.incident_changes',
    'defender.incident_payloads', 'defender.rejected_payloads', 'defender.sync_state', 'defender.sync_runs',
    'defender.sync_gaps', 'defender.audit', 'defender.summaries', 'defender.incident_days', 'defender.incident_months',
    'defender.technique_months', 'defender.devices_open', 'defender.users_open']) AS unprotected;

ALTER TABLE defender.reader_tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON defender.reader_tenants TO CURRENT_USER USING (true) WITH CHECK (true);
ALTER TABLE defender.feed_server ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON defender.feed_server TO CURRENT_USER USING (true) WITH CHECK (true);

CREATE POLICY dispatcher ON defender.tenants TO incident_sync_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY dispatcher ON defender.sync_state TO incident_sync_dispatcher USING (true) WITH CHECK (true);
-- To find the tenants that are due; the summaries themselves are not readable.
CREATE POLICY dispatcher ON defender.summaries FOR SELECT TO incident_sync_dispatcher USING (true);

GRANT USAGE ON SCHEMA defender
    TO incident_sync_writer, incident_sync_dispatcher, incident_sync_reader, incident_sync_tenant_reader;
GRANT USAGE ON SCHEMA reporting TO incident_sync_reader, incident_sync_tenant_reader;

GRANT SELECT, INSERT, UPDATE ON defender.tenants, defender.sync_state TO incident_sync_dispatcher;
GRANT SELECT ON defender.summaries TO incident_sync_dispatcher;
GRANT SELECT ON defender.bounded_state TO incident_sync_dispatcher, incident_sync_reader;
GRANT SELECT ON defender.schema_info TO incident_sync_dispatcher, incident_sync_reader, incident_sync_tenant_reader;
-- The migrator's own table: a daemon that does not own the schema looks there for the schema's version.
GRANT SELECT ON public._sqlx_migrations TO incident_sync_dispatcher, incident_sync_reader;

-- A purge deletes a tenant everywhere, and an import puts it back; the policies hold both to one tenant.
GRANT SELECT, INSERT, UPDATE, DELETE ON
    defender.tenants, defender.incidents, defender.alerts, defender.devices, defender.alert_devices, defender.evidence,
    defender.incident_comments, defender.incident_changes, defender.incident_payloads, defender.rejected_payloads,
    defender.sync_state, defender.sync_runs, defender.sync_gaps, defender.summaries, defender.incident_days,
    defender.incident_months, defender.technique_months, defender.devices_open, defender.users_open
    TO incident_sync_writer;
GRANT SELECT, INSERT ON defender.audit TO incident_sync_writer;

GRANT SELECT ON
    defender.incidents, defender.alerts, defender.devices, defender.alert_devices, defender.evidence,
    defender.incident_comments, defender.incident_changes, defender.incident_payloads, defender.rejected_payloads,
    defender.sync_gaps, defender.summaries, defender.incident_days, defender.incident_months, defender.technique_months,
    defender.devices_open, defender.users_open
    TO incident_sync_tenant_reader;
-- Internal labels, the instance that works on a tenant, the reason for which it is parked, the person who parked it and the
-- partner's own errors are for operators. The customer sees who must act, and the message where that is its own admin.
GRANT SELECT (tenant_id, name, labels, enabled, first_seen_at, removed_at) ON defender.tenants TO incident_sync_tenant_reader;
GRANT SELECT (tenant_id, watermark, backfilled_at, last_attempt_at, last_success_at, consecutive_failures,
    next_attempt_at, who_must_act) ON defender.sync_state TO incident_sync_tenant_reader;

-- With its owner's rights, because a customer-scoped reader may not read these columns: hence the condition on the tenant.
CREATE FUNCTION defender.diagnoses_for_customers()
RETURNS TABLE (tenant_id uuid, is_parked boolean, error_class text, error_message text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 10
AS $$
    SELECT s.tenant_id, s.parked_reason IS NOT NULL,
        CASE WHEN s.who_must_act = 'customer_admin' THEN s.error_class ELSE s.who_must_act END,
        CASE WHEN s.who_must_act = 'customer_admin' THEN s.error_message END
    FROM defender.sync_state s
    WHERE s.tenant_id = ANY (ARRAY(SELECT defender.my_tenants()))
$$;
COMMENT ON FUNCTION defender.diagnoses_for_customers IS 'For each tenant that the current role may read: whether it is parked, and the error if the customer''s admin must act';
REVOKE EXECUTE ON FUNCTION defender.diagnoses_for_customers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.diagnoses_for_customers TO incident_sync_tenant_reader;

-- With its caller's rights. PL/pgSQL plans a statement when it reaches it, so that a role without the right to the columns
-- of the first one does not fail.
CREATE FUNCTION defender.diagnoses()
RETURNS TABLE (tenant_id uuid, is_parked boolean, error_class text, error_message text, internal_labels jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp ROWS 100
AS $$
BEGIN
    IF has_column_privilege('defender.sync_state', 'error_message', 'SELECT') THEN
        RETURN QUERY
            SELECT t.tenant_id, s.parked_reason IS NOT NULL, s.error_class, s.error_message, t.internal_labels
            FROM defender.tenants t
            LEFT JOIN defender.sync_state s ON s.tenant_id = t.tenant_id;
    ELSE
        RETURN QUERY
            SELECT d.tenant_id, d.is_parked, d.error_class, d.error_message, NULL::jsonb
            FROM defender.diagnoses_for_customers() d;
    END IF;
END $$;
COMMENT ON FUNCTION defender.diagnoses IS 'The current error of each tenant, as far as the current role may read it';
REVOKE EXECUTE ON FUNCTION defender.diagnoses FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.diagnoses TO incident_sync_reader, incident_sync_tenant_reader;
