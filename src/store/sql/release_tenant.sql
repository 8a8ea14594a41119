-- release_tenant
UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL WHERE tenant_id = $1
