-- resume_tenant
-- An error that incident-sync itself recorded stays until the next run; a pause that the service requested stays valid.
UPDATE defender.sync_state SET
    next_attempt_at = now(),
    poll_due_at = least(poll_due_at, now()),
    parked_reason = CASE WHEN parked_by IS NULL THEN parked_reason END,
    error_class = CASE WHEN parked_by IS NULL THEN error_class END,
    error_message = CASE WHEN parked_by IS NULL THEN error_message END,
    who_must_act = CASE WHEN parked_by IS NULL THEN who_must_act END,
    parked_by = NULL
WHERE tenant_id = $1 AND parked_reason IS NOT NULL
