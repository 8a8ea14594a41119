-- next_unsummarised
-- Only after the first sync, during which a tenant's summaries would be written repeatedly, and not during a run, which may
-- change more.
SELECT s.tenant_id
FROM defender.sync_state s
LEFT JOIN defender.summaries u ON u.tenant_id = s.tenant_id
WHERE u.is_current IS NOT TRUE AND s.tenant_id > $1 AND s.backfilled_at IS NOT NULL AND s.lease_owner IS NULL
ORDER BY s.tenant_id
LIMIT 1
