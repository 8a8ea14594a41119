-- rejected_payloads
SELECT rejected_id, payload, content_hash FROM defender.rejected_payloads
WHERE tenant_id = $1 AND rejected_id > $2
ORDER BY rejected_id
LIMIT $3
