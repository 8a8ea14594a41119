-- delete_stale_comments
-- $2 are the incidents being written; $3 and $4 the comments of their newest versions.
DELETE FROM defender.incident_comments c
WHERE c.tenant_id = $1
    AND c.incident_id = ANY ($2::bigint[])
    AND NOT EXISTS (
        SELECT FROM unnest($3::bigint[], $4::bytea[]) AS u(incident_id, comment_hash)
        WHERE u.incident_id = c.incident_id AND u.comment_hash = c.comment_hash
    )
