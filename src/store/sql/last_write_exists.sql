-- last_write_exists
-- Whether the last incident version that a run wrote still exists.
SELECT EXISTS (
    SELECT FROM defender.incident_payloads WHERE tenant_id = $1 AND incident_id = $2 AND content_hash = $3
)
