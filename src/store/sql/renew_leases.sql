-- renew_leases
UPDATE defender.sync_state SET lease_expires_at = now() + $2
WHERE lease_owner = $1 AND tenant_id = ANY ($3) AND lease_expires_at >= now()
RETURNING tenant_id
