-- summarise
-- The end of a purge waits for this statement, and no summaries are written for a purged tenant.
SELECT defender.summarise(tenant_id) FROM (
    SELECT tenant_id FROM defender.tenants WHERE tenant_id = $1 FOR KEY SHARE
) t
