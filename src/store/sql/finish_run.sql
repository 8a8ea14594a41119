-- finish_run
-- Changes after the start of a run may be missing: a success is as old as the start of its run.
-- A stopped run has no result, and a run without a call of the API ($28) says nothing about it: the error of the previous run
-- and its wait stay.
WITH released AS (
    UPDATE defender.sync_state SET
        lease_owner = NULL,
        lease_expires_at = NULL,
        backfilled_at = CASE WHEN $4 THEN coalesce(backfilled_at, now()) ELSE backfilled_at END,
        last_success_at = CASE WHEN $4 THEN $14 ELSE last_success_at END,
        consecutive_failures = CASE
            WHEN $15::text = 'stopped' OR $28 THEN consecutive_failures
            WHEN $5::text IS NULL THEN 0
            ELSE least(consecutive_failures, 999999) + 1
        END,
        next_attempt_at = CASE WHEN $28 THEN next_attempt_at ELSE coalesce($8, now()) END,
        poll_due_at = coalesce($9, poll_due_at),
        open_due_at = coalesce($10, open_due_at),
        reconcile_due_at = coalesce($11, reconcile_due_at),
        error_class = CASE WHEN $15 = 'stopped' OR $28 THEN error_class ELSE $5 END,
        error_message = CASE WHEN $15 = 'stopped' OR $28 THEN error_message ELSE $6 END,
        who_must_act = CASE WHEN $15 = 'stopped' OR $28 THEN who_must_act ELSE $7 END,
        parked_reason = CASE WHEN $15 = 'stopped' OR $28 THEN parked_reason ELSE $12 END,
        found_late = least(found_late + $25, 4611686018427387903),
        -- The greatest lateness of a day; after that a smaller one replaces it.
        lateness_s = CASE WHEN $27 > 0 AND ($27 >= lateness_s OR lateness_at < now() - interval '1 day') THEN $27 ELSE lateness_s END,
        lateness_at = CASE WHEN $27 > 0 AND ($27 >= lateness_s OR lateness_at < now() - interval '1 day') THEN now() ELSE lateness_at END
    WHERE tenant_id = $1 AND lease_fence = $2 AND lease_owner = $3
    RETURNING 1
)
INSERT INTO defender.sync_runs (tenant_id, instance, kind, started_at, finished_at, outcome, window_from, window_to,
    api_calls, throttled, incidents_seen, incidents_written, alerts_written, rejected, mistyped_fields, found_late,
    error_class, error_message, source)
SELECT $1, $3, $13, $14, now(), $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $5, $6, $26
-- A run that lost its lease is recorded too, unless a purge took the lease and has ended.
WHERE (EXISTS (SELECT FROM released) OR EXISTS (
    SELECT FROM defender.sync_state
    WHERE tenant_id = $1 AND (lease_fence, lease_owner) IS DISTINCT FROM ($2, $3)
    FOR KEY SHARE
))
AND NOT EXISTS (
    -- Repeats the statement if the response to its commit was lost.
    SELECT FROM (
        SELECT instance, started_at FROM defender.sync_runs WHERE tenant_id = $1 ORDER BY run_id DESC LIMIT 1
    ) newest
    WHERE instance = $3 AND started_at = $14
)
