-- reader_limits
-- The login roles of readers, and the limits that are set neither for them nor for the server.
SELECT r.rolname::text AS role, r.rolconnlimit < 0 AS has_no_connection_limit,
    current_setting('temp_file_limit') = '-1' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_db_role_setting s
        CROSS JOIN LATERAL unnest(s.setconfig) AS kept(setting)
        WHERE s.setrole IN (r.oid, 0) AND kept.setting LIKE 'temp\_file\_limit=%' AND kept.setting <> 'temp_file_limit=-1'
            AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
    ) AS has_no_temp_file_limit
FROM pg_catalog.pg_roles r
WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname <> session_user
    AND (pg_has_role(r.oid, to_regrole('incident_sync_reader'), 'MEMBER')
        OR pg_has_role(r.oid, to_regrole('incident_sync_tenant_reader'), 'MEMBER'))
    AND NOT pg_has_role(r.oid, to_regrole('incident_sync_writer'), 'MEMBER')
ORDER BY r.rolname
