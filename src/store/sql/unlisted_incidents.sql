-- unlisted_incidents
SELECT incident_id FROM defender.incidents
WHERE tenant_id = $1 AND last_update_time >= $2 AND last_update_time < $3 AND incident_id <> ALL ($4::bigint[])
ORDER BY incident_id
