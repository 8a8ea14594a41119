-- delete_old_rejected
DELETE FROM defender.rejected_payloads WHERE tenant_id = $1 AND observed_at < now() - $2::interval
