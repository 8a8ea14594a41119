-- old_incidents
SELECT incident_id
FROM defender.incidents
WHERE tenant_id = $1 AND (resolved_at IS NOT NULL OR is_merged) AND last_update_time < now() - $2::interval
ORDER BY last_update_time
LIMIT $3
