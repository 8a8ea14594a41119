-- inspect_roles
-- Of the roles that transactions take on, and that readers are members of: whether each is there, whether our user may take
-- it on, and whether row-level security does not hold for it.
SELECT name, r.oid IS NOT NULL, coalesce(pg_has_role(r.oid, 'MEMBER'), false), coalesce(r.rolsuper OR r.rolbypassrls, false)
FROM unnest(ARRAY['incident_sync_writer', 'incident_sync_dispatcher', 'incident_sync_reader',
                  'incident_sync_tenant_reader']) name
LEFT JOIN pg_roles r ON r.rolname = name
ORDER BY name
