-- rejected_payloads
-- The texts of one source: the other one's are decoded when the tenant is read from it.
SELECT rejected_id, payload, content_hash FROM defender.rejected_payloads
WHERE tenant_id = $1 AND rejected_id > $2 AND source = $4
ORDER BY rejected_id
LIMIT $3
