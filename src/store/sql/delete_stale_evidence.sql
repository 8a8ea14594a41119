-- delete_stale_evidence
-- Evidence that the newest version of an already stored alert ($2) no longer lists; $3 and $4 are what it lists.
DELETE FROM defender.evidence e
WHERE e.tenant_id = $1
    AND e.alert_id = ANY ($2::text[])
    AND NOT EXISTS (
        SELECT FROM unnest($3::text[], $4::bytea[]) AS u(alert_id, evidence_hash)
        WHERE u.alert_id = e.alert_id AND u.evidence_hash = e.evidence_hash
    )
