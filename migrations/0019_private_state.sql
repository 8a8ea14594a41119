-- What a customer-scoped reader must not learn: from plans, who else is a customer and how large; from its own rows, what
-- operators write about the customer and the partner's own trouble.

-- EXPLAIN shows every role what the planner expects. With statistics on tenant_id it is the number of rows of any tenant id
-- that a reader guesses, and directory ids are public. Without them it is the same number for every id.
CREATE OR REPLACE FUNCTION defender.protect(unprotected regclass) RETURNS void
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
COMMENT ON FUNCTION defender.protect IS 'Forces row-level security on a table with tenant_id and collects no statistics on tenant_id; for migrations';

DO $$
DECLARE
    held record;
    is_superuser constant boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    cure constant text := 'DELETE FROM pg_statistic s USING pg_attribute a JOIN pg_class c ON c.oid = a.attrelid '
        'WHERE s.starelid = a.attrelid AND s.staattnum = a.attnum AND c.relnamespace = ''defender''::regnamespace '
        'AND (a.attname = ''tenant_id'' OR a.attstattarget = 0)';
BEGIN
    FOR held IN
        SELECT c.oid::regclass AS owner FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'defender'::regnamespace AND c.relkind IN ('r', 'p')
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN tenant_id SET STATISTICS 0', held.owner);
    END LOOP;

    -- ANALYZE leaves alone what it collected before.
    IF is_superuser THEN
        EXECUTE cure;
        RETURN;
    END IF;
    FOR held IN
        SELECT c.oid::regclass AS owner, c.oid, c.relname, a.attname, c.relforcerowsecurity AS is_forced
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget = 0
        WHERE c.relnamespace = 'defender'::regnamespace AND c.relkind IN ('r', 'p')
    LOOP
        IF current_setting('server_version_num')::integer >= 180000 THEN
            EXECUTE 'SELECT pg_clear_attribute_stats(''defender'', $1, $2, false)' USING held.relname::text, held.attname::text;
            CONTINUE;
        END IF;
        -- pg_stats hides statistics while row-level security holds for the role that asks.
        IF held.is_forced THEN
            EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', held.owner);
        END IF;
        IF EXISTS (SELECT FROM pg_stats s
                WHERE s.schemaname = 'defender' AND s.tablename = held.relname AND s.attname = held.attname) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'insufficient_privilege',
                MESSAGE = format('statistics on %s.%s show readers the size of other tenants, and before PostgreSQL 18 only a '
                    'superuser can delete them. Run as a superuser, then repeat: %s', held.owner, held.attname, cure);
        END IF;
        IF held.is_forced THEN
            EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', held.owner);
        END IF;
    END LOOP;
END $$;

-- Labels that only operators see. In the configuration their keys begin with "internal.".
ALTER TABLE defender.tenants ADD COLUMN internal_labels jsonb NOT NULL DEFAULT '{}';
ALTER TABLE defender.tenants ALTER COLUMN internal_labels SET STATISTICS 0;
COMMENT ON COLUMN defender.tenants.labels IS 'Labels from the configuration; readers of the tenant see them';
COMMENT ON COLUMN defender.tenants.internal_labels IS 'Labels from the configuration whose keys begin with internal., without that beginning; customer-scoped readers do not see them';
REVOKE SELECT ON defender.tenants FROM incident_sync_tenant_reader;
GRANT SELECT (tenant_id, name, labels, enabled, first_seen_at, removed_at) ON defender.tenants TO incident_sync_tenant_reader;

-- A reason, the person who parked a tenant and the partner's own trouble are for operators. The customer sees who must act,
-- and the message where that is its own admin.
REVOKE SELECT (parked_reason, error_class, error_message) ON defender.sync_state FROM incident_sync_tenant_reader;
COMMENT ON COLUMN defender.sync_state.parked_reason IS 'Why the tenant waits for a person; it is still tried once an hour, unless a person parked it. Customer-scoped readers do not see it';
COMMENT ON COLUMN defender.sync_state.parked_by IS 'Who parked it with `tenant park`: it is not tried before `tenant resume`; NULL otherwise. Customer-scoped readers do not see it';
COMMENT ON COLUMN defender.sync_state.error_class IS 'What went wrong, as docs/errors.md lists it; NULL when nothing did. Customer-scoped readers see reporting.tenant_freshness instead';
COMMENT ON COLUMN defender.sync_state.error_message IS 'What went wrong, in words. Customer-scoped readers see reporting.tenant_freshness instead';

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
COMMENT ON FUNCTION defender.diagnoses_for_customers IS 'Of the tenants that the role that logged in may read: whether each is parked, and what its own admin must know';
REVOKE EXECUTE ON FUNCTION defender.diagnoses_for_customers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.diagnoses_for_customers TO incident_sync_tenant_reader;

-- With its caller's rights. PL/pgSQL plans a statement when it reaches it, so that a role without the right to the columns
-- of the first one does not fail by them.
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
COMMENT ON FUNCTION defender.diagnoses IS 'What is wrong with each tenant, as far as the current role may know it';
REVOKE EXECUTE ON FUNCTION defender.diagnoses FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.diagnoses TO incident_sync_reader, incident_sync_tenant_reader;

CREATE OR REPLACE VIEW reporting.tenant_freshness WITH (security_invoker = true, security_barrier = true) AS
SELECT t.tenant_id, t.name AS tenant_name, t.labels, t.enabled, s.watermark AS data_as_of,
    s.last_success_at, extract(epoch FROM now() - s.last_success_at)::double precision AS lag_seconds,
    s.backfilled_at IS NOT NULL AS history_complete, s.consecutive_failures, d.error_class, d.error_message,
    s.who_must_act,
    CASE WHEN s.last_attempt_at IS NULL THEN 'never run' WHEN d.is_parked THEN 'parked'
        WHEN s.consecutive_failures > 0 THEN 'failed' ELSE 'ok' END AS last_outcome,
    (SELECT count(*) FROM defender.sync_gaps h WHERE h.tenant_id = t.tenant_id) AS gaps,
    d.internal_labels
FROM defender.tenants t
LEFT JOIN defender.sync_state s USING (tenant_id)
LEFT JOIN defender.diagnoses() d ON d.tenant_id = t.tenant_id
WHERE t.removed_at IS NULL;
COMMENT ON COLUMN reporting.tenant_freshness.error_class IS 'What is wrong, as docs/errors.md lists it; NULL when all is well. A customer-scoped role sees the owner of the problem instead, unless that is customer_admin';
COMMENT ON COLUMN reporting.tenant_freshness.error_message IS 'What is wrong, in words. A customer-scoped role sees it only where the customer''s admin must act';
COMMENT ON COLUMN reporting.tenant_freshness.internal_labels IS 'Labels from the configuration whose keys begin with internal.; NULL for a customer-scoped role';
