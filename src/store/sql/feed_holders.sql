-- feed_holders
-- Other running transactions with a transaction number, the oldest first: reporting.incident_changes shows
-- nothing newer than the first of them. Each holds a lock on its number, which every role sees; the times of foreign sessions
-- are shown to members of pg_read_all_stats only. A prepared transaction has no session.
SELECT * FROM (
    SELECT DISTINCT ON (l.pid, p.gid) l.pid, p.gid,
        coalesce(a.usename, p.owner)::text AS role,
        nullif(a.application_name, '') AS application,
        coalesce(a.datname, p.database)::text AS database,
        extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::double precision AS age_seconds,
        coalesce(a.usename = session_user AND a.application_name = 'incident-sync', false) AS is_ours
    FROM pg_catalog.pg_locks l
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_catalog.pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = l.transactionid
    WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
        -- A number within a prepared transaction cannot be terminated by itself.
        AND (l.pid IS NOT NULL OR p.gid IS NOT NULL)
) held
ORDER BY age_seconds DESC NULLS LAST, pid
