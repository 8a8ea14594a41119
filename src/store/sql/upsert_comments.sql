-- upsert_comments
INSERT INTO defender.incident_comments (tenant_id, incident_id, comment_hash, comment, created_by, created_time)
SELECT $1, u.*
FROM unnest($2::bigint[], $3::bytea[], $4::text[], $5::text[], $6::timestamptz[])
    AS u(incident_id, comment_hash, comment, created_by, created_time)
ON CONFLICT DO NOTHING
