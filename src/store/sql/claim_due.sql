-- claim_due
-- A row that this instance already leases is a claim whose response was lost: the caller excludes the leases that it knows.
WITH due AS (
    SELECT tenant_id
    FROM defender.sync_state
    WHERE tenant_id = ANY ($1::uuid[])
        AND parked_by IS NULL
        -- One row that cannot be claimed or decoded must not fail the claims of all tenants; bounded_state reports it.
        AND lease_fence BETWEEN 0 AND 4611686018427387902
        AND consecutive_failures IS NOT NULL
        AND (watermark IS NULL OR watermark BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z')
        AND (source_since IS NULL OR source_since BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z')
        AND (lease_expires_at IS NULL OR lease_expires_at < now() OR lease_owner = $3)
        AND greatest(next_attempt_at, no_calls_before) <= now() + $4
        AND (poll_due_at <= now() + $4
            OR backfilled_at IS NOT NULL AND least(open_due_at, reconcile_due_at) <= now() + $4)
    ORDER BY greatest(next_attempt_at, no_calls_before, least(poll_due_at, open_due_at, reconcile_due_at)), tenant_id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE defender.sync_state s
SET lease_owner = $3, lease_fence = lease_fence + 1, lease_expires_at = now() + $5, last_attempt_at = now()
FROM due
WHERE s.tenant_id = due.tenant_id
RETURNING s.tenant_id, s.lease_fence, s.watermark, s.backfilled_at IS NOT NULL AS is_backfilled, s.consecutive_failures,
    s.source, s.source_since, now() AS claimed_at,
    CASE WHEN s.lateness_at > now() - interval '2 days' THEN least(greatest(s.lateness_s, 0), 604800) ELSE 0 END AS lateness_s,
    CASE
        WHEN s.backfilled_at IS NULL THEN 'backfill'
        WHEN s.poll_due_at <= now() + $4 THEN 'poll'
        WHEN s.open_due_at <= s.reconcile_due_at THEN 'open'
        ELSE 'reconcile'
    END AS kind
