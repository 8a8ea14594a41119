-- begin_purge
-- Whoever works on the tenant has lost it, and if it is ever synchronised again, then from the beginning.
UPDATE defender.sync_state SET
    lease_fence = lease_fence + 1,
    lease_owner = $2,
    lease_expires_at = 'infinity',
    watermark = NULL,
    backfilled_at = NULL
WHERE tenant_id = $1
