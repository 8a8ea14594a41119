-- release_leases
-- At shutdown: interrupted tenants are due immediately for the next instance.
UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL WHERE lease_owner = $1
