-- inspect_roles
-- Of the roles that transactions take on: whether each is there, and whether our user may take it on.
SELECT name, r.oid IS NOT NULL, coalesce(pg_has_role(r.oid, 'MEMBER'), false)
FROM unnest(ARRAY['incident_sync_writer', 'incident_sync_dispatcher', 'incident_sync_reader',
                  'incident_sync_tenant_reader']) name
LEFT JOIN pg_roles r ON r.rolname = name
ORDER BY name
