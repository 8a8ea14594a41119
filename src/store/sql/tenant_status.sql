-- tenant_status
SELECT t.tenant_id, t.name, t.enabled, t.removed_at, b.watermark, b.backfilled_at, b.last_attempt_at, b.last_success_at,
    b.consecutive_failures, b.next_attempt_at, s.parked_reason, s.error_class, s.error_message, s.who_must_act,
    s.lease_owner, extract(epoch FROM now() - b.last_success_at)::double precision AS freshness_seconds,
    -- The parts of a first synchronisation leave the poll due.
    extract(epoch FROM now() - CASE WHEN b.backfilled_at IS NULL
        THEN greatest(b.poll_due_at, b.last_attempt_at, b.next_attempt_at) ELSE b.poll_due_at END)::double precision
        AS overdue_seconds,
    coalesce(b.out_of_bounds, '{}') AS out_of_bounds,
    -- Set by a wrong clock; the next claim does not believe it.
    coalesce(s.watermark > now() + interval '1 hour', false) AS is_watermark_ahead,
    r.kind AS last_kind, r.outcome AS last_outcome, r.finished_at AS last_finished_at,
    i.incidents, i.open_incidents, q.rejected, b.found_late, g.gaps
FROM defender.tenants t
LEFT JOIN defender.sync_state s USING (tenant_id)
LEFT JOIN defender.bounded_state b USING (tenant_id)
LEFT JOIN LATERAL (
    SELECT kind, outcome, finished_at FROM defender.sync_runs WHERE tenant_id = t.tenant_id ORDER BY run_id DESC LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS incidents,
        count(*) FILTER (WHERE status IS NULL OR status NOT IN ('Resolved', 'Redirected')) AS open_incidents
    FROM defender.incidents WHERE tenant_id = t.tenant_id
) i ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS rejected FROM defender.rejected_payloads WHERE tenant_id = t.tenant_id
) q ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS gaps FROM defender.sync_gaps WHERE tenant_id = t.tenant_id
) g ON true
ORDER BY t.name, t.tenant_id
