-- check_fence
-- The first statement of every write transaction. KEY SHARE prevents a claim of the lease until this transaction commits
-- and does not wait for a renewal.
SELECT lease_fence,
    set_config('synchronous_commit', CASE WHEN $4 THEN current_setting('synchronous_commit') ELSE 'off' END, true)
FROM defender.sync_state
WHERE tenant_id = $1 AND lease_fence = $2 AND lease_owner = $3 AND lease_expires_at > clock_timestamp()
FOR KEY SHARE
