-- tenant_tables
-- The tables with a tenant's rows, except the audit, the grants, and the deletions, which pipelines still read. The rows that show that the tenant exists come last,
-- alerts and incidents after what belongs to them, whose versions they would renew, and the summaries after all that marks them.
SELECT c.relname::text
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace = 'defender'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition 
    AND c.relname NOT IN ('audit', 'reader_tenants', 'deletions')
ORDER BY c.relname IN ('sync_runs', 'sync_state', 'tenants'), c.relname = 'summaries', c.relname = 'incidents', c.relname = 'alerts', c.relname
