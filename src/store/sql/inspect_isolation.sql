-- inspect_isolation
-- The tables that only policies open: whether row-level security is forced on each, and which of its policies are missing.
SELECT c.relname::text AS "table", c.relrowsecurity AND c.relforcerowsecurity AS is_forced,
    ARRAY(
        SELECT name
        FROM unnest(CASE
            WHEN c.relname IN ('reader_tenants', 'feed_server') THEN ARRAY['owner']
            WHEN c.relname IN ('tenants', 'sync_state', 'summaries') THEN ARRAY['dispatcher', 'reader', 'tenant_reader', 'writer']
            ELSE ARRAY['reader', 'tenant_reader', 'writer'] END) name
        WHERE NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = name)
    ) AS missing_policies
FROM pg_class c
WHERE c.relnamespace = to_regnamespace('defender') AND c.relkind IN ('r', 'p')
    AND (c.relname = 'feed_server'
        OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped))
ORDER BY c.relname
