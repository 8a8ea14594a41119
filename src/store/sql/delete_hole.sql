-- delete_hole
DELETE FROM defender.sync_holes WHERE tenant_id = $1 AND window_from = $2
