-- freshness
-- A tenant that never succeeded is as old as we know it.
SELECT t.name, extract(epoch FROM now() - coalesce(s.last_success_at, t.first_seen_at))::double precision
FROM defender.tenants t
JOIN defender.sync_state s USING (tenant_id)
WHERE t.enabled
