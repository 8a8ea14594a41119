-- Writes what the daemon writes for changed incidents: resolves `count` open ones.
--   psql -v count=10 -f examples/changes.sql
WITH chosen AS (
    SELECT tenant_id, incident_id, status FROM defender.incidents
    WHERE status = 'Active' AND NOT is_merged ORDER BY incident_id, tenant_id LIMIT :count
), changed AS (
    UPDATE defender.incidents
    SET status = 'Resolved', assigned_to = 'analyst@partner.example', tags = '{vip,shift 2}', last_update_time = now()
    FROM chosen WHERE incidents.tenant_id = chosen.tenant_id AND incidents.incident_id = chosen.incident_id
)
INSERT INTO defender.incident_changes (tenant_id, incident_id, field, old_value, new_value, changed_at)
SELECT tenant_id, incident_id, 'status', status, 'Resolved', now() FROM chosen;
