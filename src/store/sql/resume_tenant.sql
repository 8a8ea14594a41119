-- resume_tenant
-- An error that incident-sync itself recorded stays until the next run; a pause that the service requested stays valid.
UPDATE defender.sync_state SET
    next_attempt_at = now(),
    poll_due_at = least(poll_due_at, now()),
    parked_reason = CASE WHEN parked_by IS NULL THEN parked_reason END,
    error_class = CASE WHEN parked_by IS NULL THEN error_class WHEN no_calls_before > now() THEN 'throttled' END,
    error_message = CASE WHEN parked_by IS NULL THEN error_message
        WHEN no_calls_before > now() THEN 'The API asked for a pause. The tenant is read when it ends' END,
    who_must_act = CASE WHEN parked_by IS NULL THEN who_must_act WHEN no_calls_before > now() THEN 'nobody' END,
    parked_by = NULL
WHERE tenant_id = $1 AND parked_reason IS NOT NULL
