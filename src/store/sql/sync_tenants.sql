-- sync_tenants
-- The configuration as the table knows it. Rows change only where the configuration did.
INSERT INTO defender.tenants AS t (tenant_id, name, labels, enabled)
SELECT u.tenant_id, u.name, u.labels::jsonb, u.enabled
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[]) AS u(tenant_id, name, labels, enabled)
ON CONFLICT (tenant_id) DO UPDATE SET
    name = excluded.name, labels = excluded.labels, enabled = excluded.enabled, removed_at = NULL
WHERE (t.name, t.labels, t.enabled, t.removed_at) IS DISTINCT FROM (excluded.name, excluded.labels, excluded.enabled, NULL)
