-- The status page counts open incidents of all tenants by severity: from this index alone, not from the whole table.
DROP INDEX defender.incidents_open;
CREATE INDEX incidents_open ON defender.incidents (tenant_id, incident_id) INCLUDE (severity)
    WHERE resolved_at IS NULL AND NOT is_merged;
