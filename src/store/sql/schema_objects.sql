-- schema_objects
-- The objects that the statements need, one per line; `required_objects.txt` is this list for a migrated database.
SELECT format('column %s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod))
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = to_regnamespace('defender') AND c.relkind IN ('r', 'p')
UNION ALL
SELECT format('key %s %s', c.relname, pg_get_constraintdef(k.oid))
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = to_regnamespace('defender') AND k.contype IN ('p', 'u')
UNION ALL
SELECT format('row-level security of %s', c.relname)
FROM pg_class c
WHERE c.relnamespace = to_regnamespace('defender') AND c.relrowsecurity AND c.relforcerowsecurity
UNION ALL
SELECT format('policy %s of %s', p.polname, c.relname)
FROM pg_policy p
JOIN pg_class c ON c.oid = p.polrelid
WHERE c.relnamespace = to_regnamespace('defender')
UNION ALL
SELECT format('index %s', i.relname)
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
WHERE i.relnamespace = to_regnamespace('defender') AND x.indisvalid
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid)
UNION ALL
SELECT format('view %s.%s', relnamespace::regnamespace, relname)
FROM pg_class
WHERE relnamespace IN (to_regnamespace('defender'), to_regnamespace('reporting')) AND relkind = 'v'
ORDER BY 1
