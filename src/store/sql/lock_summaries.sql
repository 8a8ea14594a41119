-- lock_summaries
-- Waits until the summaries of the tenant are written.
SELECT FROM defender.tenants WHERE tenant_id = $1 FOR UPDATE
