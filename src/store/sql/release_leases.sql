-- release_leases
-- At shutdown: what was cut short is due at once, for whoever is next.
UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL WHERE lease_owner = $1
