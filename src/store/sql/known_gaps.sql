-- known_gaps
SELECT window_from, window_to, error_class, error_message
FROM defender.sync_gaps
WHERE tenant_id = $1
ORDER BY last_tried_at, window_from
