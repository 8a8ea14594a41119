-- lock_tenant
-- Waits for a page that is being written: its transaction holds the row against claims.
SELECT FROM defender.sync_state WHERE tenant_id = $1 FOR UPDATE
