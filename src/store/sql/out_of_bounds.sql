-- out_of_bounds
-- Tenants whose state holds values that no release of ours writes, and their columns.
SELECT tenant_id, out_of_bounds FROM defender.bounded_state
WHERE tenant_id = ANY ($1::uuid[]) AND out_of_bounds <> '{}'
ORDER BY tenant_id
