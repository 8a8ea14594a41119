-- stored_alerts
SELECT a.alert_id, a.incident_id, a.last_updated_time,
    CASE WHEN a.is_listed THEN greatest(a.last_seen, i.last_update_time) ELSE a.last_seen END AS last_seen,
    p.source, e.evidence, e.shared_evidence,
    (SELECT count(*) FROM defender.alert_devices d WHERE d.tenant_id = a.tenant_id AND d.alert_id = a.alert_id) AS devices
FROM defender.alerts a
LEFT JOIN defender.incidents i ON i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id
LEFT JOIN defender.incident_payloads p ON p.tenant_id = a.tenant_id AND p.incident_id = a.incident_id
CROSS JOIN LATERAL (
    SELECT count(*) AS evidence, count(*) FILTER (WHERE lower(entity_type) = ANY ($3::text[])) AS shared_evidence
    FROM defender.evidence
    WHERE tenant_id = a.tenant_id AND alert_id = a.alert_id
) e
WHERE a.tenant_id = $1 AND a.alert_id = ANY ($2::text[])
