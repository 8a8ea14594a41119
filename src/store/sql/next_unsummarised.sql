-- next_unsummarised
-- After the first synchronisation: before it a tenant's summaries would be written again and again. A run in flight is about
-- to change more.
SELECT s.tenant_id
FROM defender.sync_state s
LEFT JOIN defender.summaries u ON u.tenant_id = s.tenant_id
WHERE u.is_current IS NOT TRUE AND s.tenant_id > $1 AND s.backfilled_at IS NOT NULL AND s.lease_owner IS NULL
ORDER BY s.tenant_id
LIMIT 1
