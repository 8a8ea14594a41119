-- create_rights
-- Privileges of PUBLIC or a reader to create objects in this database, in public or in the schemas of incident-sync: the
-- statements that revoke them. Superusers and the members of incident_sync_writer, such as the daemon's user, are no readers in this sense.
WITH readers AS (
    SELECT r.oid
    FROM pg_roles r
    WHERE NOT r.rolsuper
        AND EXISTS (SELECT FROM pg_roles held WHERE held.rolname IN ('incident_sync_reader', 'incident_sync_tenant_reader')
            AND pg_has_role(r.oid, held.oid, 'MEMBER'))
        AND NOT EXISTS (SELECT FROM pg_roles held WHERE held.rolname = 'incident_sync_writer'
            AND pg_has_role(r.oid, held.oid, 'MEMBER'))
), objects AS (
    SELECT format('SCHEMA %I', nspname) AS name, nspowner AS owner, coalesce(nspacl, acldefault('n', nspowner)) AS acl
    FROM pg_namespace
    WHERE nspname IN ('public', 'defender', 'reporting')
    UNION ALL
    SELECT format('DATABASE %I', datname), datdba, coalesce(datacl, acldefault('d', datdba))
    FROM pg_database
    WHERE datname = current_database()
)
-- A privilege granted by a role other than the owner is revoked from that role, and with it from its grantees.
SELECT DISTINCT CASE e.grantor WHEN owner
    THEN format('REVOKE CREATE ON %s FROM %s', name, CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE e.grantee::regrole::text END)
    ELSE format('REVOKE GRANT OPTION FOR CREATE ON %s FROM %s CASCADE', name, e.grantor::regrole) END AS statement
FROM objects
CROSS JOIN LATERAL aclexplode(acl) e
WHERE e.privilege_type = 'CREATE' AND e.grantee <> owner
    AND (e.grantee = 0 OR EXISTS (SELECT FROM readers WHERE pg_has_role(readers.oid, e.grantee, 'MEMBER')))
UNION
SELECT format('ALTER %s OWNER TO %I', name, current_user)
FROM objects
JOIN readers ON readers.oid = owner
UNION
-- The database owner is a member of pg_database_owner without a row here.
SELECT format('REVOKE %s FROM %s', m.roleid::regrole, m.member::regrole)
FROM objects
JOIN pg_auth_members m ON m.roleid = owner
WHERE EXISTS (SELECT FROM readers WHERE pg_has_role(readers.oid, m.member, 'MEMBER'))
ORDER BY statement
