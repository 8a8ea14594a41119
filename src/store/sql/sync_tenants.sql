-- sync_tenants
-- Stores the configured tenants. Only rows whose configuration changed are written.
INSERT INTO defender.tenants AS t (tenant_id, name, labels, enabled, internal_labels)
SELECT u.tenant_id, u.name, u.labels::jsonb, u.enabled, u.internal_labels::jsonb
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[], $5::text[])
    AS u(tenant_id, name, labels, enabled, internal_labels)
ON CONFLICT (tenant_id) DO UPDATE SET
    name = excluded.name, labels = excluded.labels, enabled = excluded.enabled, removed_at = NULL, missing_since = NULL,
    internal_labels = excluded.internal_labels
WHERE (t.name, t.labels, t.enabled, t.removed_at, t.missing_since, t.internal_labels)
    IS DISTINCT FROM (excluded.name, excluded.labels, excluded.enabled, NULL, NULL, excluded.internal_labels)
