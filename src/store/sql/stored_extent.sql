-- stored_extent
SELECT (SELECT max(last_update_time) FROM defender.incidents WHERE tenant_id = $1) AS newest,
    EXISTS (SELECT FROM defender.alerts WHERE tenant_id = $1) AS has_alerts
