-- exported_tables
-- What an export takes along of a tenant: all but the summaries, which are counted anew. Numbers that the database draws
-- are drawn anew, so that a pipeline sees restored changes as new ones.
SELECT c.relname::text AS name,
    (SELECT array_agg(a.attname::text ORDER BY a.attnum)
        FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = '' AND a.attgenerated = ''
            AND a.attname <> 'change_id') AS columns,
    (SELECT string_agg(a.attname, ', ' ORDER BY p.place)
        FROM pg_constraint k, unnest(k.conkey) WITH ORDINALITY p (attnum, place), pg_attribute a
        WHERE k.conrelid = c.oid AND k.contype = 'p' AND a.attrelid = c.oid AND a.attnum = p.attnum) AS key
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace = 'defender'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.relname NOT IN ('audit', 'reader_tenants', 'summaries', 'incident_days', 'incident_months', 'technique_months',
        'devices_open', 'users_open')
ORDER BY c.relname
