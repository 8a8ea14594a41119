-- park_tenant
-- The current lease owner loses the tenant; a run that ends later changes nothing here.
UPDATE defender.sync_state SET
    parked_by = $2,
    parked_reason = concat_ws(': ', 'parked by ' || $2, $3::text),
    error_class = 'parked',
    error_message = concat_ws(': ', 'parked by ' || $2, $3::text),
    who_must_act = 'operator',
    -- A fence at its limit stays unchanged: the owner is cleared, and every write checks both.
    lease_fence = least(greatest(lease_fence, 0), 4611686018427387902) + 1,
    lease_owner = NULL,
    lease_expires_at = NULL
WHERE tenant_id = $1
