-- insert_alert_devices
-- For alerts that were not stored before.
INSERT INTO defender.alert_devices (tenant_id, alert_id, device_id)
SELECT $1, u.alert_id, u.device_id
FROM unnest($2::text[], $3::text[]) AS u(alert_id, device_id)
