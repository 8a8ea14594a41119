-- reserve_call
-- Generic cell rate algorithm: calls are spaced at a steady rate, and a burst of them may run ahead of it. The lock on the
-- row orders all instances. During a long pause that the service requested, nothing is reserved and the pause is returned.
WITH line AS (
    SELECT tenant_id, no_calls_before > now() + $6::interval AS is_paused,
        greatest(now(), no_calls_before, minute_quota_at - $3::interval, hour_quota_at - $5::interval) AS turn
    FROM defender.sync_state
    WHERE tenant_id = $1
    FOR NO KEY UPDATE
)
UPDATE defender.sync_state s SET
    minute_quota_at = CASE WHEN is_paused THEN minute_quota_at ELSE greatest(minute_quota_at, turn) + $2::interval END,
    hour_quota_at = CASE WHEN is_paused THEN hour_quota_at ELSE greatest(hour_quota_at, turn) + $4::interval END
FROM line
WHERE s.tenant_id = line.tenant_id
RETURNING extract(epoch FROM turn - now())::double precision AS wait_seconds, is_paused
