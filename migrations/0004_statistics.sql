-- What the planner expects of a condition is shown by EXPLAIN to everybody, and comes from the values of all tenants: with
-- guesses, or by halving, a reader of one tenant would find out frequent values of the others. So nothing is collected on
-- free text, names and documents. Words that mean the same everywhere, keys, numbers and times keep their statistics,
-- and the planner falls back on its defaults for the rest.
DO $$
DECLARE
    words constant text[] := ARRAY['status', 'severity', 'classification', 'determination', 'detection_source', 'service_source',
        'category', 'investigation_state', 'mitre_techniques', 'os_platform', 'health_status', 'risk_score',
        'defender_av_status', 'onboarding_status', 'entity_type', 'verdict', 'remediation_status', 'delivery_action',
        'registry_value_type', 'field', 'kind', 'outcome', 'error_class', 'who_must_act', 'alert_id', 'device_id'];
    telling record;
BEGIN
    FOR telling IN
        SELECT attrelid::regclass AS owner, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'defender'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
            AND atttypid IN ('text'::regtype, 'text[]'::regtype, 'jsonb'::regtype) AND attname <> ALL (words)
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', telling.owner, telling.attname);
    END LOOP;
END $$;
