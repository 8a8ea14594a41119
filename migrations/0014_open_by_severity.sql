-- The status page counts open incidents of all tenants by severity from these alone, not from the whole table. One index with
-- the severity in it would refuse a long text, which the API may send one day.
CREATE INDEX incidents_open_high ON defender.incidents (tenant_id)
    WHERE resolved_at IS NULL AND NOT is_merged AND severity = 'High';
CREATE INDEX incidents_open_medium ON defender.incidents (tenant_id)
    WHERE resolved_at IS NULL AND NOT is_merged AND severity = 'Medium';
CREATE INDEX incidents_open_low ON defender.incidents (tenant_id)
    WHERE resolved_at IS NULL AND NOT is_merged AND severity = 'Low';
