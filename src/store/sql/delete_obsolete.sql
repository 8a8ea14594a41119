-- delete_obsolete
DELETE FROM defender.rejected_payloads WHERE tenant_id = $1 AND content_hash = ANY ($2::bytea[])
