-- advance_watermark
UPDATE defender.sync_state SET watermark = greatest(watermark, $2)
WHERE tenant_id = $1 AND watermark IS DISTINCT FROM greatest(watermark, $2)
