-- upsert_gap
INSERT INTO defender.sync_gaps (tenant_id, window_from, window_to, error_class, error_message)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, window_from) DO UPDATE SET
    window_to = greatest(sync_gaps.window_to, excluded.window_to),
    error_class = excluded.error_class,
    error_message = excluded.error_message,
    last_tried_at = excluded.last_tried_at
