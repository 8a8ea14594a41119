SELECT tenant_name, data_as_of, coalesce(error_class, 'ok') AS state FROM reporting.tenant_freshness ORDER BY tenant_name
SELECT tenant_id::text AS tenant_id, incident_id, severity, is_open, array_to_string(tags, ', ') AS tags, tenant_labels->>'tier' AS tier FROM reporting.incidents WHERE NOT is_merged ORDER BY last_update_time DESC, incident_id LIMIT 3
SELECT change_id, tenant_name, incident_id, field, new_value FROM reporting.incident_changes ORDER BY change_id LIMIT 3
