-- freshness
-- A tenant without a success has the age of its row. Parts of a backfill count as successes too.
SELECT t.name,
    extract(epoch FROM now() - coalesce(b.last_success_at, CASE WHEN isfinite(t.first_seen_at) THEN t.first_seen_at END, now()))
        ::double precision AS freshness_seconds,
    s.last_attempt_at IS NOT NULL AND s.error_class IS NULL AND b.out_of_bounds = '{}' AS is_up,
    s.backfilled_at IS NOT NULL AS is_backfilled,
    b.found_late,
    CASE WHEN s.lateness_at > now() - interval '2 days' THEN least(greatest(s.lateness_s, 0), 604800) ELSE 0 END AS lateness_seconds,
    (SELECT count(*) FROM defender.sync_gaps g WHERE g.tenant_id = t.tenant_id) AS gaps,
    (SELECT count(*) FROM defender.rejected_payloads r WHERE r.tenant_id = t.tenant_id) AS rejected
FROM defender.tenants t
JOIN defender.sync_state s USING (tenant_id)
JOIN defender.bounded_state b USING (tenant_id)
WHERE t.enabled
ORDER BY t.name
