-- known_rejected
SELECT content_hash FROM defender.rejected_payloads WHERE tenant_id = $1 AND content_hash = ANY ($2::bytea[])
