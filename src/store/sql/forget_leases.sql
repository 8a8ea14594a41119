-- forget_leases
-- Only where no other instance can exist: the holders of these leases have ended.
UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL WHERE lease_owner IS NOT NULL
