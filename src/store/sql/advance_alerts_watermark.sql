-- advance_alerts_watermark
-- Never later than the server's clock. A later watermark came from a wrong clock, and the run ignored it.
UPDATE defender.sync_state
SET alerts_watermark =
    CASE WHEN alerts_watermark > now() THEN least($2, now()) ELSE greatest(alerts_watermark, least($2, now())) END
WHERE tenant_id = $1
    AND (alerts_watermark > now() OR alerts_watermark IS DISTINCT FROM greatest(alerts_watermark, least($2, now())))
