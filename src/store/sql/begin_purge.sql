-- begin_purge
-- Whoever works on the tenant has lost it, and if it is ever synchronised again, then from the beginning. A fence that cannot
-- grow stays where it is: the owner is another one, and every write checks both. The lease lasts until the purge has ended.
UPDATE defender.sync_state SET
    lease_fence = least(greatest(lease_fence, 0), 4611686018427387902) + 1,
    lease_owner = $2,
    lease_expires_at = '9999-12-31 23:59:59Z',
    watermark = NULL,
    backfilled_at = NULL
WHERE tenant_id = $1
