-- unlisted_incidents
-- Incidents in a gap are excluded: the API cannot list them.
SELECT incident_id FROM defender.incidents
WHERE tenant_id = $1 AND last_update_time >= $2 AND last_update_time < $3 AND incident_id <> ALL ($4::bigint[])
    AND NOT EXISTS (
        SELECT FROM unnest($5::timestamptz[], $6::timestamptz[]) AS gap (window_from, window_to)
        WHERE last_update_time >= window_from AND last_update_time < window_to
    )
ORDER BY incident_id
