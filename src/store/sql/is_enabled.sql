-- is_enabled
SELECT enabled AND removed_at IS NULL FROM defender.tenants WHERE tenant_id = $1
