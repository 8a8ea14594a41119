-- stored_identities
-- What another source must agree with. current_alerts: listed by the stored version of the incident.
SELECT i.incident_id, i.created_time, i.last_update_time,
    coalesce(array_agg(a.alert_id ORDER BY a.alert_id) FILTER (WHERE a.alert_id IS NOT NULL), '{}') AS alerts,
    coalesce(array_agg(a.alert_id ORDER BY a.alert_id) FILTER (WHERE a.is_listed), '{}') AS current_alerts
FROM defender.incidents i
LEFT JOIN defender.alerts a ON a.tenant_id = i.tenant_id AND a.incident_id = i.incident_id
WHERE i.tenant_id = $1 AND i.incident_id = ANY ($2::bigint[])
GROUP BY i.incident_id, i.created_time, i.last_update_time
ORDER BY i.incident_id
