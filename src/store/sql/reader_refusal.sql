-- reader_refusal: what else the role $1 is, or may become by SET ROLE, that makes it see more than it is given; $2 whether
-- it is bound to some tenants. No row is good.
SELECT held.rolname::text, why
FROM pg_roles reader
JOIN pg_roles held ON pg_has_role(reader.oid, held.oid, 'MEMBER')
CROSS JOIN LATERAL (SELECT CASE
    WHEN held.rolsuper THEN 'a superuser, whom no policy stops'
    WHEN held.rolbypassrls THEN 'a role with BYPASSRLS, which no policy stops'
    WHEN held.rolcreaterole THEN 'a role with CREATEROLE, which can make itself a member of others'
    WHEN held.rolreplication THEN 'a role with REPLICATION, which can read every table''s changes'
    WHEN held.rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
        THEN 'a role that reaches the server''s files'
    WHEN held.rolname = 'pg_write_all_data' THEN 'a role that writes tables that no policy guards'
    WHEN $2::boolean AND held.rolname IN ('pg_read_all_data', 'pg_read_all_stats', 'pg_signal_backend', 'pg_stat_scan_tables')
        THEN 'a role that reads or stops what others do on this server'
    WHEN held.rolname IN ('incident_sync_writer', 'incident_sync_dispatcher')
        THEN 'a role that chooses for itself which tenants it sees'
    WHEN EXISTS (SELECT FROM pg_class JOIN pg_namespace schema ON schema.oid = relnamespace
            WHERE nspname IN ('defender', 'reporting') AND held.oid IN (relowner, nspowner))
        THEN 'an owner of incident-sync''s tables'
    WHEN EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND datdba = held.oid)
        THEN 'the owner of this database'
    -- A direct membership is taken away; one that comes through another role would stay.
    WHEN $2::boolean AND held.rolname = 'incident_sync_reader' AND EXISTS (SELECT FROM pg_auth_members
            WHERE member = reader.oid AND roleid <> held.oid AND pg_has_role(roleid, held.oid, 'MEMBER'))
        THEN 'a role that reads all tenants'
    WHEN $2::boolean AND held.oid <> reader.oid AND EXISTS (SELECT FROM defender.reader_tenants WHERE reader_tenants.reader = held.rolname)
        THEN 'a reader with tenants of its own'
    END AS why) judged
WHERE reader.rolname = $1::text AND why IS NOT NULL
ORDER BY held.oid <> reader.oid, held.rolname
LIMIT 1
