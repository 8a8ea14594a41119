-- known_versions
SELECT i.incident_id, i.last_update_time, p.content_hash
FROM defender.incidents i
JOIN defender.incident_payloads p USING (tenant_id, incident_id)
WHERE i.tenant_id = $1 AND i.incident_id = ANY ($2::bigint[])
