-- upsert_alerts
-- What only the other source has keeps its value.
INSERT INTO defender.alerts AS a (tenant_id, alert_id, incident_id, provider_alert_id, service_source, detection_source, detector_id, creation_time,
    last_updated_time, resolved_time, first_activity, last_activity, title, description, category, status,
    severity, investigation_id, investigation_state, classification, determination, assigned_to, actor_name,
    threat_family_name, mitre_techniques, alert_web_url, recommended_actions, product_name, alert_policy_id,
    categories, system_tags, last_seen)
SELECT $1, u.alert_id, u.incident_id, u.provider_alert_id, u.service_source, u.detection_source, u.detector_id,
    u.creation_time, u.last_updated_time, u.resolved_time, u.first_activity, u.last_activity, u.title,
    u.description, u.category, u.status, u.severity, u.investigation_id, u.investigation_state,
    u.classification, u.determination, u.assigned_to, u.actor_name, u.threat_family_name,
    u.mitre_techniques::text[], u.alert_web_url, u.recommended_actions, u.product_name, u.alert_policy_id,
    u.categories::text[], u.system_tags::text[], u.last_seen
FROM unnest($2::defender.alert_record_2[]) AS u
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
    changed_at = now()
WHERE (coalesce(a.last_updated_time, '-infinity'), a.last_seen)
    <= (coalesce(excluded.last_updated_time, '-infinity'), excluded.last_seen)
RETURNING alert_id, xmax = 0 AS inserted
