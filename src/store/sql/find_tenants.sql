-- find_tenants: by name or id ($1), including tenants that left the configuration.
SELECT tenant_id, name FROM defender.tenants WHERE name = ANY($1::text[]) OR tenant_id::text = ANY($1::text[]) ORDER BY name, tenant_id
