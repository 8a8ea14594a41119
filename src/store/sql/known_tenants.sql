-- known_tenants
SELECT tenant_id, name, removed_at IS NOT NULL AS is_removed, missing_since IS NOT NULL AS is_missing
FROM defender.tenants
ORDER BY name, tenant_id
