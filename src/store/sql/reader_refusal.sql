-- reader_refusal: why the role $1 cannot be a reader: properties, or roles available by SET ROLE, that show it more than it is
-- granted, or let it run code or stop the work of others. $2: whether it is limited to some tenants; $3: whether its
-- memberships were already changed, so that none is left to be revoked. No row: the role can be a reader.
WITH creators AS (
    SELECT 'schema public' AS place, grantee, CASE WHEN grantee = nspowner
        THEN 'ALTER SCHEMA public OWNER TO pg_database_owner' ELSE 'REVOKE CREATE ON SCHEMA public FROM ' END AS cure
    FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
    WHERE nspname = 'public' AND privilege_type = 'CREATE'
    UNION ALL
    SELECT 'this database', grantee, format('REVOKE CREATE ON DATABASE %I FROM ', datname)
    FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
    WHERE datname = current_database() AND privilege_type = 'CREATE'
), reasons AS (
    SELECT 1 AS place, $1::text AS held,
        'a keyword of SQL, which needs quotes wherever it is written. Choose another name' AS why
    WHERE quote_ident($1::text) <> $1::text
    UNION ALL
    SELECT 2, $1::text, format('a role that may create objects in %s, as every role of this server may. '
        'Let a superuser run: %sPUBLIC', place, cure)
    FROM creators
    WHERE grantee = 0
    UNION ALL
    SELECT CASE WHEN held.oid = reader.oid THEN 3 ELSE 4 END, held.rolname::text, judged.why
    FROM pg_roles reader
    -- Its only member is the database owner, which has a row of its own.
    JOIN pg_roles held ON pg_has_role(reader.oid, held.oid, 'MEMBER') AND held.rolname <> 'pg_database_owner'
    CROSS JOIN LATERAL (SELECT CASE
        WHEN held.rolsuper THEN 'a superuser, whom no policy stops'
        WHEN held.rolbypassrls THEN 'a role with BYPASSRLS, which no policy stops'
        WHEN held.rolcreaterole THEN 'a role with CREATEROLE, which can make itself a member of others'
        WHEN held.rolreplication THEN 'a role with REPLICATION, which can read every table''s changes'
        WHEN held.rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
            THEN 'a role that reaches the server''s files'
        WHEN held.rolname = 'pg_write_all_data' THEN 'a role that writes tables that no policy guards'
        -- Every other predefined role, so that those of later majors are refused too; their names are reserved.
        WHEN $2::boolean AND held.rolname LIKE 'pg\_%' AND held.rolname <> 'pg_read_all_settings'
            THEN 'a role that reads or stops what others do on this server'
        WHEN held.rolname IN ('incident_sync_writer', 'incident_sync_dispatcher')
            THEN 'a role that chooses for itself which tenants it sees'
        WHEN EXISTS (SELECT FROM pg_class JOIN pg_namespace schema ON schema.oid = relnamespace
                WHERE nspname IN ('defender', 'reporting') AND held.oid IN (relowner, nspowner))
            THEN 'an owner of incident-sync''s tables'
        WHEN EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND datdba = held.oid)
            THEN 'the owner of this database'
        WHEN EXISTS (SELECT FROM creators WHERE grantee = held.oid)
            THEN (SELECT format('a role that may create objects in %s. Let a superuser run: %s', place,
                CASE WHEN cure LIKE '%FROM ' THEN cure || quote_ident(held.rolname) ELSE cure END)
                FROM creators WHERE grantee = held.oid ORDER BY place LIMIT 1)
        -- A direct membership is revoked; one through another role would stay.
        WHEN $2::boolean AND held.rolname = 'incident_sync_reader' AND ($3::boolean OR EXISTS (SELECT FROM pg_auth_members
                WHERE member = reader.oid AND roleid <> held.oid AND pg_has_role(roleid, held.oid, 'MEMBER')))
            THEN 'a role that reads all tenants'
        -- By oid alone: a grant that a renaming made ineffective is effective again after renaming back.
        WHEN $2::boolean AND held.oid <> reader.oid
                AND EXISTS (SELECT FROM defender.reader_tenants WHERE reader_oid = held.oid)
            THEN 'a reader with tenants of its own'
        END AS why) judged
    WHERE reader.rolname = $1::text
    UNION ALL
    -- Since 16 each membership has its own INHERIT option, which the statements set.
    SELECT 5, reader.rolname::text, format('a role without the privileges of the roles that it is a member of (NOINHERIT), '
        'and would see nothing. Let a superuser run: ALTER ROLE %I INHERIT', reader.rolname)
    FROM pg_roles reader
    WHERE $3::boolean AND reader.rolname = $1::text AND NOT pg_has_role(reader.oid,
        CASE WHEN $2::boolean THEN 'incident_sync_tenant_reader' ELSE 'incident_sync_reader' END, 'USAGE')
)
SELECT held, why
FROM reasons
WHERE why IS NOT NULL
ORDER BY place, held
LIMIT 1
