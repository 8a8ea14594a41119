-- inspect_rights
-- The privileges that the roles of transactions lack: the statements that restore them. For a current schema.
WITH held AS (
    SELECT c.oid, c.relname
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
    WHERE c.relnamespace = to_regnamespace('defender') AND c.relkind IN ('r', 'p') AND c.relname <> 'reader_tenants'
), needed AS (
    SELECT 'incident_sync_writer' AS grantee, oid, relname,
        CASE WHEN relname IN ('audit', 'deletions') THEN ARRAY['SELECT', 'INSERT'] ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] END AS privileges
    FROM held
    UNION ALL
    SELECT 'incident_sync_dispatcher', oid, relname, ARRAY['SELECT', 'INSERT', 'UPDATE']
    FROM held
    WHERE relname IN ('tenants', 'sync_state')
    UNION ALL
    SELECT 'incident_sync_reader', oid, relname, ARRAY['SELECT']
    FROM held
)
SELECT format('GRANT %s ON defender.%I TO %I', string_agg(privilege, ', '), relname, grantee)
FROM needed
JOIN pg_roles r ON r.rolname = grantee
CROSS JOIN unnest(privileges) privilege
WHERE NOT has_table_privilege(r.oid, needed.oid, privilege)
GROUP BY relname, grantee
UNION ALL
SELECT format('GRANT USAGE ON SEQUENCE defender.%I TO %I', c.relname, r.rolname)
FROM pg_class c
JOIN pg_roles r ON r.rolname = 'incident_sync_writer'
WHERE c.relnamespace = to_regnamespace('defender') AND c.relname = 'incident_changes_number'
    AND NOT has_sequence_privilege(r.oid, c.oid, 'USAGE')
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA defender TO %I', rolname)
FROM pg_roles
WHERE rolname IN ('incident_sync_writer', 'incident_sync_dispatcher', 'incident_sync_reader')
    AND NOT has_schema_privilege(oid, to_regnamespace('defender')::oid, 'USAGE')
ORDER BY 1
