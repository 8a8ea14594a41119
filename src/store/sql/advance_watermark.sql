-- advance_watermark
-- Never later than the server's clock. A later watermark came from a wrong clock, and the claim ignored it.
UPDATE defender.sync_state
SET watermark = CASE WHEN watermark > now() THEN least($2, now()) ELSE greatest(watermark, least($2, now())) END
WHERE tenant_id = $1 AND (watermark > now() OR watermark IS DISTINCT FROM greatest(watermark, least($2, now())))
