-- seize_tenant
UPDATE defender.sync_state SET
    lease_fence = lease_fence + 1,
    lease_owner = $2,
    lease_expires_at = now() + interval '15 minutes'
WHERE tenant_id = $1
RETURNING lease_fence
