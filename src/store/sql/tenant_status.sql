-- tenant_status
-- For `status` and for the status page. $1: with the tenants that have left the configuration, and with the number of all
-- incidents, which reads the whole table.
SELECT t.tenant_id, t.name, t.enabled, t.removed_at, t.missing_since, b.watermark, b.backfilled_at, b.last_attempt_at, b.last_success_at,
    b.consecutive_failures, b.next_attempt_at, s.parked_reason, s.error_class, s.error_message, s.who_must_act,
    s.source, s.lease_owner, extract(epoch FROM now() - b.last_success_at)::double precision AS freshness_seconds,
    -- A backfill in several parts leaves the poll due.
    extract(epoch FROM now() - CASE WHEN b.backfilled_at IS NULL
        THEN greatest(b.poll_due_at, b.last_attempt_at, b.next_attempt_at) ELSE b.poll_due_at END)::double precision
        AS overdue_seconds,
    coalesce(b.out_of_bounds, '{}') AS out_of_bounds,
    -- Set by a wrong clock; the next claim ignores it.
    coalesce(s.watermark > now() + interval '1 hour', false) AS is_watermark_ahead,
    r.kind AS last_kind, r.outcome AS last_outcome, r.finished_at AS last_finished_at,
    CASE WHEN s.lateness_at > now() - interval '2 days' THEN least(greatest(s.lateness_s, 0), 604800) ELSE 0 END AS lateness_seconds,
    coalesce(q.rejected, 0) AS rejected, b.found_late, coalesce(h.gaps, 0) AS gaps,
    coalesce(extract(epoch FROM greatest(b.minute_quota_at, now()) - now()), 0)::double precision AS minute_seconds,
    coalesce(extract(epoch FROM greatest(b.hour_quota_at, now()) - now()), 0)::double precision AS hour_seconds,
    coalesce(extract(epoch FROM greatest(b.no_calls_before, now()) - now()), 0)::double precision AS pause_seconds,
    i.incidents, coalesce(o.count, 0) AS open_incidents,
    coalesce(high.count, 0) AS open_high, coalesce(medium.count, 0) AS open_medium, coalesce(low.count, 0) AS open_low,
    coalesce(o.count, 0) - coalesce(high.count, 0) - coalesce(medium.count, 0) - coalesce(low.count, 0) AS open_other
FROM defender.tenants t
LEFT JOIN defender.sync_state s USING (tenant_id)
LEFT JOIN defender.bounded_state b USING (tenant_id)
LEFT JOIN LATERAL (
    SELECT kind, outcome, finished_at FROM defender.sync_runs WHERE tenant_id = t.tenant_id ORDER BY run_id DESC LIMIT 1
) r ON true
-- The same condition as in reporting.open_incidents. One count for each severity: each is read from a partial index of its
-- own, and none reads the table.
LEFT JOIN (
    SELECT tenant_id, count(*) AS count FROM defender.incidents
    WHERE resolved_at IS NULL AND NOT is_merged
    GROUP BY tenant_id
) o USING (tenant_id)
LEFT JOIN (
    SELECT tenant_id, count(*) AS count FROM defender.incidents
    WHERE resolved_at IS NULL AND NOT is_merged AND severity = 'High'
    GROUP BY tenant_id
) high USING (tenant_id)
LEFT JOIN (
    SELECT tenant_id, count(*) AS count FROM defender.incidents
    WHERE resolved_at IS NULL AND NOT is_merged AND severity = 'Medium'
    GROUP BY tenant_id
) medium USING (tenant_id)
LEFT JOIN (
    SELECT tenant_id, count(*) AS count FROM defender.incidents
    WHERE resolved_at IS NULL AND NOT is_merged AND severity = 'Low'
    GROUP BY tenant_id
) low USING (tenant_id)
LEFT JOIN LATERAL (
    SELECT count(*) AS incidents FROM defender.incidents WHERE $1::boolean AND tenant_id = t.tenant_id
) i ON true
LEFT JOIN (SELECT tenant_id, count(*) AS rejected FROM defender.rejected_payloads GROUP BY tenant_id) q USING (tenant_id)
LEFT JOIN (SELECT tenant_id, count(*) AS gaps FROM defender.sync_gaps GROUP BY tenant_id) h USING (tenant_id)
WHERE $1 OR t.removed_at IS NULL
ORDER BY t.name, t.tenant_id
