-- delete_gap
DELETE FROM defender.sync_gaps WHERE tenant_id = $1 AND window_from = $2
