-- inspect_isolation
-- The tables with customer data, and whether row-level security is forced on each.
SELECT c.relname::text, c.relrowsecurity AND c.relforcerowsecurity
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace = to_regnamespace('defender') AND c.relkind IN ('r', 'p')
ORDER BY c.relname
