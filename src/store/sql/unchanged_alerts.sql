-- unchanged_alerts
-- Those of the listed alerts whose stored version is not newer. Asked after upsert_alerts of those that it did not write.
SELECT u.alert_id
FROM unnest($2::text[], $3::timestamptz[], $4::timestamptz[]) AS u(alert_id, last_updated_time, last_seen)
JOIN defender.alerts a ON a.tenant_id = $1 AND a.alert_id = u.alert_id
LEFT JOIN defender.incidents i ON i.tenant_id = $1 AND i.incident_id = a.incident_id
WHERE (coalesce(a.last_updated_time, '-infinity'),
        CASE WHEN a.is_listed THEN greatest(a.last_seen, i.last_update_time) ELSE a.last_seen END)
    <= (coalesce(u.last_updated_time, '-infinity'), u.last_seen)
