-- unlist_alerts
-- Alerts that the new versions ($3) of these incidents ($2) no longer list; they list $4, each in the incident $5. Run before
-- the incidents are written: the stored version is the last one that listed them.
UPDATE defender.alerts a
SET is_listed = false, last_seen = greatest(a.last_seen, i.last_update_time), changed_at = now()
FROM unnest($2::bigint[], $3::timestamptz[]) AS n(incident_id, last_update_time)
JOIN defender.incidents i ON i.tenant_id = $1 AND i.incident_id = n.incident_id
WHERE a.tenant_id = $1 AND a.incident_id = n.incident_id AND a.is_listed AND i.last_update_time <= n.last_update_time
    AND NOT EXISTS (
        SELECT FROM unnest($4::text[], $5::bigint[]) AS listed(alert_id, incident_id)
        WHERE listed.alert_id = a.alert_id AND listed.incident_id = a.incident_id
    )
