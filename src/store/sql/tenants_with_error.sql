-- tenants_with_error
-- For a daemon that starts while an API refuses every tenant.
SELECT tenant_id FROM defender.sync_state WHERE error_class = $1 AND parked_by IS NULL
