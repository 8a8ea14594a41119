-- start_alerts
-- An earlier start stays: alerts that changed since then may be missing.
UPDATE defender.sync_state SET alerts_watermark = least($2, now()) WHERE tenant_id = $1 AND alerts_watermark IS NULL
