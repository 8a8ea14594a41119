-- recent_runs
-- Whether a run made the tenant complete is not recorded: runs that may have left something to read do not count, nor do
-- earlier parts of a backfill. The newest success is in sync_state.
SELECT r.kind, r.started_at, r.finished_at, r.outcome, r.api_calls, r.throttled, r.incidents_seen, r.incidents_written,
    r.rejected, r.error_message,
    r.outcome = 'ok' AND (r.started_at = s.last_success_at
        OR r.kind IN ('poll', 'backfill') AND r.api_calls < $3 AND coalesce(r.finished_at >= s.backfilled_at, false))
        AS is_complete
FROM defender.sync_runs r
JOIN defender.sync_state s USING (tenant_id)
WHERE r.tenant_id = $1 AND r.finished_at > now() - interval '1 day'
ORDER BY r.run_id DESC
LIMIT $2
