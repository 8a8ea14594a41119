-- stored_alerts
SELECT a.alert_id, a.incident_id, a.last_updated_time, a.last_seen,
    (SELECT count(*) FROM defender.evidence e WHERE e.tenant_id = a.tenant_id AND e.alert_id = a.alert_id) AS evidence,
    (SELECT count(*) FROM defender.alert_devices d WHERE d.tenant_id = a.tenant_id AND d.alert_id = a.alert_id) AS devices
FROM defender.alerts a
WHERE a.tenant_id = $1 AND a.alert_id = ANY ($2::text[])
