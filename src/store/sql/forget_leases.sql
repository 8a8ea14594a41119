-- forget_leases
-- Only where no other instance can exist: whoever held these is gone.
UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL WHERE lease_owner IS NOT NULL
