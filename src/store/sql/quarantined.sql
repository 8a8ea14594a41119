-- quarantined
SELECT incident_id, content_hash FROM defender.rejected_payloads
WHERE tenant_id = $1 AND (incident_id = ANY ($2::bigint[]) OR content_hash = ANY ($3::bytea[]))
