-- upsert_payloads
INSERT INTO defender.incident_payloads (tenant_id, incident_id, content_hash, payload, source)
SELECT $1, u.incident_id, u.content_hash, u.payload, $5
FROM unnest($2::bigint[], $3::bytea[], $4::json[]) AS u(incident_id, content_hash, payload)
ON CONFLICT (tenant_id, incident_id) DO UPDATE SET
    content_hash = excluded.content_hash,
    payload = excluded.payload,
    source = excluded.source
