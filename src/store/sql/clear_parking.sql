-- clear_parking
-- After a reload: the cause may be fixed, so parked tenants are due again, except those that an operator parked.
UPDATE defender.sync_state SET next_attempt_at = now(), poll_due_at = least(poll_due_at, now())
WHERE (parked_reason IS NOT NULL OR error_class IN ('credential', 'api_retired')) AND parked_by IS NULL AND tenant_id = ANY ($1::uuid[])
