-- delete_old_runs
-- The oldest first: a large backlog is deleted over several days.
DELETE FROM defender.sync_runs
WHERE tenant_id = $1 AND run_id IN (
    SELECT run_id FROM defender.sync_runs
    WHERE tenant_id = $1 AND finished_at < now() - $2::interval
    ORDER BY run_id
    LIMIT 20000)
