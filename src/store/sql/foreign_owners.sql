-- foreign_owners
-- Objects with the name of an object of incident-sync, or called by one, whose owner administers neither this database nor
-- incident-sync.
WITH ours AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname IN ('defender', 'reporting')
), held AS (
    SELECT format('schema %I', nspname) AS what, nspowner AS owner FROM pg_namespace JOIN ours USING (oid, nspname)
    UNION ALL
    SELECT format('relation %I.%I', n.nspname, relname), relowner
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND (n.oid IN (SELECT oid FROM ours) OR n.nspname = 'public' AND c.relname = '_sqlx_migrations')
    UNION ALL
    SELECT format('function %s', p.oid::regprocedure), proowner FROM pg_proc p JOIN ours ON ours.oid = pronamespace
    UNION ALL
    SELECT format('%s, which %s calls', pg_describe_object(d.refclassid, d.refobjid, 0),
            pg_describe_object(d.classid, d.objid, 0)),
        coalesce(f.proowner, o.oprowner)
    FROM (
        SELECT 'pg_rewrite'::regclass AS class, oid, ev_class AS relation FROM pg_rewrite
        UNION ALL SELECT 'pg_trigger'::regclass, oid, tgrelid FROM pg_trigger
        UNION ALL SELECT 'pg_policy'::regclass, oid, polrelid FROM pg_policy
        UNION ALL SELECT 'pg_attrdef'::regclass, oid, adrelid FROM pg_attrdef
        UNION ALL SELECT 'pg_constraint'::regclass, oid, conrelid FROM pg_constraint
        UNION ALL SELECT 'pg_class'::regclass, indexrelid, indrelid FROM pg_index
        UNION ALL SELECT 'pg_proc'::regclass, p.oid, NULL FROM pg_proc p JOIN ours ON ours.oid = pronamespace
    ) caller
    LEFT JOIN pg_class c ON c.oid = caller.relation
    JOIN pg_depend d ON d.classid = caller.class AND d.objid = caller.oid
    LEFT JOIN pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
    LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
    WHERE (caller.relation IS NULL OR c.relnamespace IN (SELECT oid FROM ours))
        AND coalesce(f.pronamespace, o.oprnamespace) NOT IN (SELECT oid FROM ours)
)
SELECT DISTINCT format('%s (of %s)', what, owner::regrole)
FROM held
JOIN pg_roles r ON r.oid = owner
WHERE NOT r.rolsuper
    AND r.rolname <> current_user
    -- A superuser is a member of every role, which does not make it the owner.
    AND (NOT pg_has_role(r.oid, 'USAGE') OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
    AND NOT EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND datdba = r.oid)
    AND r.rolname <> 'pg_database_owner'
    AND NOT EXISTS (SELECT FROM pg_roles w WHERE w.rolname = 'incident_sync_writer' AND pg_has_role(r.oid, w.oid, 'MEMBER'))
ORDER BY 1
