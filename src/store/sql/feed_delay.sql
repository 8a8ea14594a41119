-- feed_delay
-- Age of the oldest change that reporting.incident_changes does not show yet; 0 if there is none.
SELECT coalesce((
    SELECT extract(epoch FROM clock_timestamp() - observed_at)::double precision
    FROM defender.incident_changes
    WHERE change_id >= (
        SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + feed_offset) << 20 FROM defender.schema_info)
    ORDER BY change_id
    LIMIT 1
), 0)
