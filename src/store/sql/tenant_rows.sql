-- tenant_rows
-- The tables with a tenant's data, except the summaries, which are computed again. Columns that the database numbers are not
-- restored, so that a pipeline sees restored changes as new ones.
SELECT c.relname::text AS name,
    array_agg(a.attname::text ORDER BY a.attnum)
        FILTER (WHERE a.attidentity = '' AND a.attgenerated = '' AND a.attname NOT IN ('change_id', 'row_version')) AS columns,
    array_agg(a.attname::text ORDER BY array_position(k.conkey, a.attnum)) FILTER (WHERE a.attnum = ANY (k.conkey)) AS key,
    coalesce(array_agg(a.attname::text) FILTER (WHERE a.attnum = ANY (k.conkey) AND a.atttypid = 'bytea'::regtype), '{}')
        AS hashes,
    coalesce(array_agg(a.attname::text) FILTER (WHERE a.atttypid = 'timestamptz'::regtype), '{}') AS times
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
WHERE c.relnamespace = 'defender'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.relname NOT IN ('audit', 'reader_tenants', 'deletions', 'summaries', 'incident_days', 'incident_months', 'technique_months',
        'devices_open', 'users_open')
GROUP BY c.relname
HAVING bool_or(a.attname = 'tenant_id')
ORDER BY c.relname
