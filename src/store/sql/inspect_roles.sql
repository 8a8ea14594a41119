-- inspect_roles
-- The roles of transactions and of readers: whether each exists, whether the current user may set it, and whether it bypasses
-- row-level security.
SELECT name, r.oid IS NOT NULL, coalesce(pg_has_role(r.oid, 'MEMBER'), false), coalesce(r.rolsuper OR r.rolbypassrls, false)
FROM unnest(ARRAY['incident_sync_writer', 'incident_sync_dispatcher', 'incident_sync_reader',
                  'incident_sync_tenant_reader']) name
LEFT JOIN pg_roles r ON r.rolname = name
ORDER BY name
