-- hold_calls
UPDATE defender.sync_state SET no_calls_before = greatest(no_calls_before, now() + $2) WHERE tenant_id = $1
