-- function_rights
-- The statements that restore the privileges of the migrations on each function, and whether the current user may run them.
-- After restoring a dump without privileges, PUBLIC may execute every function.
WITH granted (name, grantees) AS (
    VALUES ('begin_changes', ARRAY['incident_sync_writer']),
        ('continue_feed', ARRAY['incident_sync_writer', 'incident_sync_dispatcher']),
        ('current_tenant', ARRAY['incident_sync_writer']),
        ('diagnoses', ARRAY['incident_sync_reader', 'incident_sync_tenant_reader']),
        ('diagnoses_for_customers', ARRAY['incident_sync_tenant_reader']),
        ('forget_deletions', ARRAY['incident_sync_writer']),
        ('forget_readers', ARRAY['incident_sync_writer']),
        ('is_acknowledged', ARRAY['incident_sync_writer']),
        ('is_respelled', ARRAY['incident_sync_writer']),
        ('my_tenants', ARRAY['incident_sync_tenant_reader']),
        ('new_row_version', ARRAY['incident_sync_writer']),
        ('next_change_id', ARRAY['incident_sync_writer']),
        ('renew_alerts', ARRAY['incident_sync_writer']),
        ('severity_of_rank', ARRAY['incident_sync_writer', 'incident_sync_reader', 'incident_sync_tenant_reader']),
        ('severity_rank', ARRAY['incident_sync_writer', 'incident_sync_reader', 'incident_sync_tenant_reader']),
        ('summarise', ARRAY['incident_sync_writer'])
), ours AS (
    SELECT oid, pronamespace, proname, proowner, oid::regprocedure AS signature,
        coalesce(proacl, acldefault('f', proowner)) AS acl
    FROM pg_proc
    WHERE pronamespace IN (to_regnamespace('defender'), to_regnamespace('reporting'))
), needed AS (
    SELECT ours.oid, r.oid AS grantee
    FROM ours
    JOIN granted ON granted.name = ours.proname AND ours.pronamespace = to_regnamespace('defender')
    JOIN pg_roles r ON r.rolname = ANY (granted.grantees)
), held AS (
    SELECT ours.oid, e.grantee
    FROM ours
    CROSS JOIN LATERAL aclexplode(ours.acl) e
    WHERE e.grantee <> ours.proowner
), readers AS (
    SELECT r.oid
    FROM pg_roles r
    JOIN pg_roles held ON held.rolname IN ('incident_sync_reader', 'incident_sync_tenant_reader')
        AND pg_has_role(r.oid, held.oid, 'MEMBER')
    WHERE NOT r.rolsuper
), off AS (
    SELECT oid, grantee, false AS excess FROM needed EXCEPT SELECT oid, grantee, false FROM held
    UNION ALL
    SELECT oid, grantee, true
    FROM (SELECT oid, grantee FROM held EXCEPT SELECT oid, grantee FROM needed) more
    WHERE grantee = 0 OR EXISTS (SELECT FROM readers WHERE pg_has_role(readers.oid, grantee, 'MEMBER'))
)
SELECT format(CASE WHEN excess THEN 'REVOKE EXECUTE ON ROUTINE %s FROM %s' ELSE 'GRANT EXECUTE ON ROUTINE %s TO %s' END,
        signature, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END),
    pg_has_role(proowner, 'USAGE')
FROM off
JOIN ours USING (oid)
ORDER BY excess DESC, signature::text, grantee
