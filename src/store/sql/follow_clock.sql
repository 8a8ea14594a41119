-- follow_clock
-- What was stored while the clock was ahead lies in the future after it was set back. Waits, quotas and leases keep what was
-- left of them at the last attempt. The other limits are longer than anything that incident-sync stores.
UPDATE defender.sync_state s SET
    last_attempt_at = CASE WHEN s.last_attempt_at IS NOT NULL THEN least(s.last_attempt_at, now()) END,
    next_attempt_at = least(s.next_attempt_at - ahead, now() + interval '7 hours'),
    no_calls_before = least(s.no_calls_before - ahead, now() + interval '7 hours'),
    minute_quota_at = least(s.minute_quota_at - ahead, now() + interval '2 minutes'),
    hour_quota_at = least(s.hour_quota_at - ahead, now() + interval '1 hour'),
    lease_expires_at =
        CASE WHEN s.lease_expires_at IS NOT NULL THEN least(s.lease_expires_at - ahead, now() + interval '15 minutes') END
FROM (
    SELECT tenant_id, greatest(state.last_attempt_at - now(), interval '0') AS ahead
    FROM defender.sync_state state
    JOIN defender.bounded_state bounded USING (tenant_id)
    WHERE tenant_id = ANY ($1::uuid[]) AND out_of_bounds = '{}'
) bounded
WHERE s.tenant_id = bounded.tenant_id
    AND (s.last_attempt_at > now() OR greatest(s.next_attempt_at, s.no_calls_before) > now() + interval '7 hours'
        OR s.minute_quota_at > now() + interval '2 minutes' OR s.hour_quota_at > now() + interval '1 hour'
        OR s.lease_expires_at > now() + interval '15 minutes')
