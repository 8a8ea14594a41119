-- known_alerts
-- What is stored of listed alerts ($2), and the stored versions of the incidents that list them ($3).
SELECT u.alert_id, a.incident_id, a.last_updated_time,
    CASE WHEN a.is_listed THEN greatest(a.last_seen, own.last_update_time) ELSE a.last_seen END AS last_seen,
    u.incident_id AS listed_by, i.last_update_time
FROM unnest($2::text[], $3::bigint[]) AS u(alert_id, incident_id)
JOIN defender.incidents i ON i.tenant_id = $1 AND i.incident_id = u.incident_id
LEFT JOIN defender.alerts a ON a.tenant_id = $1 AND a.alert_id = u.alert_id
LEFT JOIN defender.incidents own ON own.tenant_id = $1 AND own.incident_id = a.incident_id
