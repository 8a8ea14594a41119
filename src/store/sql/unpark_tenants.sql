-- unpark_tenants
-- After a reload: what waits for a person may have been put right, but for what a person parked.
UPDATE defender.sync_state SET next_attempt_at = now(), poll_due_at = least(poll_due_at, now())
WHERE (parked_reason IS NOT NULL OR error_class = 'credential') AND parked_by IS NULL AND tenant_id = ANY ($1::uuid[])
