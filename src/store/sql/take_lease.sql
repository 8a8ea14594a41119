-- take_lease
-- A fence at its limit stays unchanged: the owner differs, and every write checks both.
UPDATE defender.sync_state SET
    lease_fence = least(greatest(lease_fence, 0), 4611686018427387902) + 1,
    lease_owner = $2,
    lease_expires_at = now() + interval '15 minutes'
WHERE tenant_id = $1
RETURNING lease_fence
