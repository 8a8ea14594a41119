-- tenant_tables
-- Whatever has a tenant_id and is the writer's, the audit excepted. What says that the tenant exists goes last.
SELECT c.relname::text
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace = 'defender'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition 
    AND c.relname NOT IN ('audit', 'reader_tenants')
ORDER BY c.relname IN ('sync_runs', 'sync_state', 'tenants'), c.relname
