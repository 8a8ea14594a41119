-- delete_stale_alert_devices
-- Devices that the newest version of an already stored alert ($2) no longer lists; $3 and $4 are those that it lists.
DELETE FROM defender.alert_devices d
WHERE d.tenant_id = $1
    AND d.alert_id = ANY ($2::text[])
    AND NOT EXISTS (
        SELECT FROM unnest($3::text[], $4::text[]) AS u(alert_id, device_id)
        WHERE u.alert_id = d.alert_id AND u.device_id = d.device_id
    )
