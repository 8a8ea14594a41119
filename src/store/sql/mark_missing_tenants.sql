-- mark_missing_tenants
UPDATE defender.tenants SET missing_since = now()
WHERE removed_at IS NULL AND missing_since IS NULL AND tenant_id = ANY ($1::uuid[])
