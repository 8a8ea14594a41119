-- mark_removed_tenants: all except $1, or of these only $2.
UPDATE defender.tenants SET removed_at = now(), enabled = false, missing_since = NULL
WHERE removed_at IS NULL AND tenant_id <> ALL ($1::uuid[]) AND ($2::uuid[] IS NULL OR tenant_id = ANY ($2))
