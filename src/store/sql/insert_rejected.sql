-- insert_rejected
INSERT INTO defender.rejected_payloads (tenant_id, incident_id, reason, payload, content_hash, source)
SELECT $1, u.incident_id, u.reason, u.payload, u.content_hash, $6
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bytea[]) AS u(incident_id, reason, payload, content_hash)
WHERE NOT EXISTS (
    SELECT FROM defender.rejected_payloads r WHERE r.tenant_id = $1 AND r.content_hash = u.content_hash
)
ON CONFLICT DO NOTHING
