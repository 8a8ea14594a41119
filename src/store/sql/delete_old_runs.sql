-- delete_old_runs
-- The oldest first: years of them go in more than one day.
DELETE FROM defender.sync_runs
WHERE tenant_id = $1 AND run_id IN (
    SELECT run_id FROM defender.sync_runs
    WHERE tenant_id = $1 AND finished_at < now() - $2::interval
    ORDER BY run_id
    LIMIT 20000)
