-- begin_purge
-- The current lease owner loses the tenant, and a later sync reads it from the beginning. A fence at its limit stays
-- unchanged: the owner differs, and every write checks both. The lease lasts until the purge has ended.
UPDATE defender.sync_state SET
    lease_fence = least(greatest(lease_fence, 0), 4611686018427387902) + 1,
    lease_owner = $2,
    lease_expires_at = '9999-12-31 23:59:59Z',
    watermark = NULL,
    alerts_watermark = NULL,
    backfilled_at = NULL
WHERE tenant_id = $1
