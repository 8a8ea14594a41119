-- summarise
-- A purge that ends waits for us, and no summary of a tenant is written that is no more.
SELECT defender.summarise(tenant_id) FROM (
    SELECT tenant_id FROM defender.tenants WHERE tenant_id = $1 FOR KEY SHARE
) t
