-- delete_old_devices
DELETE FROM defender.devices d
WHERE d.tenant_id = $1 AND d.last_seen < now() - $2::interval AND NOT EXISTS (
    SELECT FROM defender.alert_devices a WHERE a.tenant_id = $1 AND a.device_id = d.device_id)
