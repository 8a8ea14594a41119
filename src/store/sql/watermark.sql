-- watermark
SELECT watermark FROM defender.sync_state WHERE tenant_id = $1
