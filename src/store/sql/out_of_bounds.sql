-- out_of_bounds
-- Tenants whose state has values that no release of incident-sync writes, and the columns.
SELECT tenant_id, out_of_bounds FROM defender.bounded_state
WHERE tenant_id = ANY ($1::uuid[]) AND out_of_bounds <> '{}'
ORDER BY tenant_id
