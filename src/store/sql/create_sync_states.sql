-- create_sync_states
INSERT INTO defender.sync_state (tenant_id)
SELECT u.tenant_id FROM unnest($1::uuid[]) AS u(tenant_id)
WHERE NOT EXISTS (SELECT FROM defender.sync_state s WHERE s.tenant_id = u.tenant_id)
ON CONFLICT DO NOTHING
