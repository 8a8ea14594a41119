-- upsert_incidents
WITH new AS (
    SELECT u.incident_id, u.incident_uri, u.redirect_incident_id, u.incident_name, u.created_time,
           u.last_update_time, u.assigned_to, u.classification, u.determination, u.status, u.severity,
           u.detection_source, u.tags::text[] AS tags
    FROM unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::bigint[], $6::text[], $7::timestamptz[],
                $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
                $14::text[])
        AS u(incident_id, last_update_time, incident_uri, redirect_incident_id, incident_name, created_time,
             assigned_to, classification, determination, status, severity, detection_source, tags)
),
changed AS (
    INSERT INTO defender.incident_changes (tenant_id, incident_id, field, old_value, new_value, changed_at)
    SELECT $1, n.incident_id, v.field, v.old_value, v.new_value, v.changed_at
    FROM new n
    LEFT JOIN defender.incidents o ON o.tenant_id = $1 AND o.incident_id = n.incident_id
    CROSS JOIN LATERAL (VALUES
        ('created', NULL, n.status, coalesce(n.created_time, n.last_update_time), o.incident_id IS NULL),
        ('status', o.status, n.status, n.last_update_time, o.status IS DISTINCT FROM n.status),
        ('severity', o.severity, n.severity, n.last_update_time, o.severity IS DISTINCT FROM n.severity),
        ('assigned_to', o.assigned_to, n.assigned_to, n.last_update_time, o.assigned_to IS DISTINCT FROM n.assigned_to),
        ('classification', o.classification, n.classification, n.last_update_time,
            o.classification IS DISTINCT FROM n.classification),
        ('determination', o.determination, n.determination, n.last_update_time,
            o.determination IS DISTINCT FROM n.determination),
        ('redirect_incident_id', o.redirect_incident_id::text, n.redirect_incident_id::text, n.last_update_time,
            o.redirect_incident_id IS DISTINCT FROM n.redirect_incident_id),
        ('incident_name', o.incident_name, n.incident_name, n.last_update_time,
            o.incident_name IS DISTINCT FROM n.incident_name),
        ('tags', o.tags::text, n.tags::text, n.last_update_time, o.tags IS DISTINCT FROM n.tags)
    ) AS v(field, old_value, new_value, changed_at, differs)
    WHERE v.differs
        AND (o.incident_id IS NULL) = (v.field = 'created')
        AND (o.incident_id IS NULL OR o.last_update_time <= n.last_update_time)
    ORDER BY n.incident_id
)
INSERT INTO defender.incidents AS i (tenant_id, incident_id, incident_uri, redirect_incident_id, incident_name, created_time, last_update_time, assigned_to,
    classification, determination, status, severity, detection_source, tags)
SELECT $1, n.incident_id, n.incident_uri, n.redirect_incident_id, n.incident_name, n.created_time, n.last_update_time,
    n.assigned_to, n.classification, n.determination, n.status, n.severity, n.detection_source, n.tags
FROM new n
ORDER BY n.incident_id
ON CONFLICT (tenant_id, incident_id) DO UPDATE SET
    incident_uri = excluded.incident_uri,
    redirect_incident_id = excluded.redirect_incident_id,
    incident_name = excluded.incident_name,
    created_time = excluded.created_time,
    last_update_time = excluded.last_update_time,
    assigned_to = excluded.assigned_to,
    classification = excluded.classification,
    determination = excluded.determination,
    status = excluded.status,
    severity = excluded.severity,
    detection_source = excluded.detection_source,
    tags = excluded.tags,
    changed_at = now()
WHERE i.last_update_time <= excluded.last_update_time
