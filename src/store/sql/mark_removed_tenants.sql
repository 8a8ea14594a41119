-- mark_removed_tenants
UPDATE defender.tenants SET removed_at = now(), enabled = false
WHERE removed_at IS NULL AND tenant_id <> ALL ($1::uuid[])
