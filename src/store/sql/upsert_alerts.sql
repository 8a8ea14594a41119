-- upsert_alerts
-- What only the other source has keeps its value. An alert without a change is not written: its newest version is the one of
-- the incident that lists it, which is why last_seen of a listed alert may be older.
INSERT INTO defender.alerts AS a (tenant_id, alert_id, incident_id, provider_alert_id, service_source, detection_source, detector_id, creation_time,
    last_updated_time, resolved_time, first_activity, last_activity, title, description, category, status,
    severity, investigation_id, investigation_state, classification, determination, assigned_to, actor_name,
    threat_family_name, mitre_techniques, alert_web_url, recommended_actions, product_name, alert_policy_id,
    categories, system_tags, last_seen, is_listed, incident_is_merged, devices_without_id, extra)
SELECT $1, u.alert_id, u.incident_id, u.provider_alert_id, u.service_source, u.detection_source, u.detector_id,
    u.creation_time, u.last_updated_time, u.resolved_time, u.first_activity, u.last_activity, u.title,
    u.description, u.category, u.status, u.severity, u.investigation_id, u.investigation_state,
    u.classification, u.determination, u.assigned_to, u.actor_name, u.threat_family_name,
    u.mitre_techniques::text[], u.alert_web_url, u.recommended_actions, u.product_name, u.alert_policy_id,
    u.categories::text[], u.system_tags::text[], u.last_seen,
    u.last_seen >= coalesce(i.last_update_time, u.last_seen), coalesce(i.is_merged, false), u.devices_without_id,
    u.extra::jsonb
FROM unnest($2::defender.alert_record_3[]) AS u
LEFT JOIN defender.incidents i ON i.tenant_id = $1 AND i.incident_id = u.incident_id
ORDER BY u.alert_id COLLATE "C"
ON CONFLICT (tenant_id, alert_id) DO UPDATE SET
    incident_id = excluded.incident_id,
    provider_alert_id = excluded.provider_alert_id,
    service_source = excluded.service_source,
    detection_source = excluded.detection_source,
    detector_id = excluded.detector_id,
    creation_time = excluded.creation_time,
    last_updated_time = excluded.last_updated_time,
    resolved_time = excluded.resolved_time,
    first_activity = excluded.first_activity,
    last_activity = excluded.last_activity,
    title = excluded.title,
    description = excluded.description,
    category = excluded.category,
    status = excluded.status,
    severity = excluded.severity,
    investigation_id = CASE WHEN $3 = 'graph' THEN a.investigation_id ELSE excluded.investigation_id END,
    investigation_state = excluded.investigation_state,
    classification = excluded.classification,
    determination = excluded.determination,
    assigned_to = excluded.assigned_to,
    actor_name = excluded.actor_name,
    threat_family_name = excluded.threat_family_name,
    mitre_techniques = excluded.mitre_techniques,
    alert_web_url = CASE WHEN $3 = 'graph' THEN excluded.alert_web_url ELSE a.alert_web_url END,
    recommended_actions = CASE WHEN $3 = 'graph' THEN excluded.recommended_actions ELSE a.recommended_actions END,
    product_name = CASE WHEN $3 = 'graph' THEN excluded.product_name ELSE a.product_name END,
    alert_policy_id = CASE WHEN $3 = 'graph' THEN excluded.alert_policy_id ELSE a.alert_policy_id END,
    categories = CASE WHEN $3 = 'graph' THEN excluded.categories ELSE a.categories END,
    system_tags = CASE WHEN $3 = 'graph' THEN excluded.system_tags ELSE a.system_tags END,
    last_seen = excluded.last_seen,
    is_listed = excluded.is_listed,
    incident_is_merged = excluded.incident_is_merged,
    devices_without_id = excluded.devices_without_id,
    extra = excluded.extra,
    changed_at = now()
WHERE (coalesce(a.last_updated_time, '-infinity'), CASE WHEN a.is_listed
        THEN greatest(a.last_seen, (SELECT i.last_update_time FROM defender.incidents i
            WHERE i.tenant_id = a.tenant_id AND i.incident_id = a.incident_id))
        ELSE a.last_seen END)
    <= (coalesce(excluded.last_updated_time, '-infinity'), excluded.last_seen)
    AND ((a.incident_id, a.provider_alert_id, a.service_source, a.detection_source, a.detector_id, a.creation_time,
        a.last_updated_time, a.resolved_time, a.first_activity, a.last_activity, a.title, a.description, a.category,
        a.status, a.severity, a.investigation_state, a.classification, a.determination, a.assigned_to, a.actor_name,
        a.threat_family_name, a.mitre_techniques, a.is_listed, a.incident_is_merged, a.devices_without_id, a.extra)
        IS DISTINCT FROM (excluded.incident_id, excluded.provider_alert_id, excluded.service_source, excluded.detection_source,
        excluded.detector_id, excluded.creation_time, excluded.last_updated_time, excluded.resolved_time,
        excluded.first_activity, excluded.last_activity, excluded.title, excluded.description, excluded.category,
        excluded.status, excluded.severity, excluded.investigation_state, excluded.classification,
        excluded.determination, excluded.assigned_to, excluded.actor_name, excluded.threat_family_name,
        excluded.mitre_techniques, excluded.is_listed, excluded.incident_is_merged, excluded.devices_without_id,
        excluded.extra)
        OR NOT a.is_listed AND a.last_seen <> excluded.last_seen
        OR $3 <> 'graph' AND a.investigation_id IS DISTINCT FROM excluded.investigation_id
        OR $3 = 'graph' AND (a.alert_web_url, a.recommended_actions, a.product_name, a.alert_policy_id, a.categories, a.system_tags)
            IS DISTINCT FROM (excluded.alert_web_url, excluded.recommended_actions, excluded.product_name, excluded.alert_policy_id,
            excluded.categories, excluded.system_tags))
RETURNING alert_id, xmax = 0 AS inserted
