-- upsert_incidents
-- What only the other source has keeps its value. A write that changes an incident's source records no change of spelling.
WITH new AS (
    SELECT u.incident_id, u.incident_uri, u.redirect_incident_id, u.incident_name, u.created_time,
           u.last_update_time, u.assigned_to, u.classification, u.determination, u.status, u.severity,
           u.detection_source, u.tags::text[] AS tags, u.description, u.summary, u.resolving_comment,
           u.last_modified_by, u.priority_score::integer AS priority_score, u.system_tags::text[] AS system_tags,
           u.extra::jsonb AS extra
    FROM unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::bigint[], $6::text[], $7::timestamptz[],
                $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
                $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::bigint[], $20::text[], $21::text[])
        AS u(incident_id, last_update_time, incident_uri, redirect_incident_id, incident_name, created_time,
             assigned_to, classification, determination, status, severity, detection_source, tags, description,
             summary, resolving_comment, last_modified_by, priority_score, system_tags, extra)
),
changed AS (
    INSERT INTO defender.incident_changes (tenant_id, incident_id, field, old_value, new_value, changed_at)
    SELECT $1, n.incident_id, v.field, v.old_value, v.new_value, v.changed_at
    FROM new n
    LEFT JOIN defender.incidents o ON o.tenant_id = $1 AND o.incident_id = n.incident_id
    LEFT JOIN defender.incident_payloads p ON p.tenant_id = $1 AND p.incident_id = n.incident_id
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
        ('tags', o.tags::text, n.tags::text, n.last_update_time,
            CASE WHEN p.source <> $22
                THEN ARRAY(SELECT tag FROM unnest(o.tags) AS tag ORDER BY tag COLLATE "C")
                    <> ARRAY(SELECT tag FROM unnest(n.tags) AS tag ORDER BY tag COLLATE "C")
                ELSE o.tags IS DISTINCT FROM n.tags END)
    ) AS v(field, old_value, new_value, changed_at, differs)
    WHERE v.differs
        AND (o.incident_id IS NULL) = (v.field = 'created')
        AND (o.incident_id IS NULL OR o.last_update_time <= n.last_update_time)
        AND NOT (coalesce(p.source <> $22, false) AND defender.is_respelled(v.field, v.old_value, v.new_value))
    ORDER BY n.incident_id
)
INSERT INTO defender.incidents AS i (tenant_id, incident_id, incident_uri, redirect_incident_id, incident_name, created_time, last_update_time, assigned_to,
    classification, determination, status, severity, detection_source, tags, description, summary, resolving_comment,
    last_modified_by, priority_score, system_tags, extra)
SELECT $1, n.incident_id, n.incident_uri, n.redirect_incident_id, n.incident_name, n.created_time, n.last_update_time,
    n.assigned_to, n.classification, n.determination, n.status, n.severity, n.detection_source, n.tags,
    n.description, n.summary, n.resolving_comment, n.last_modified_by, n.priority_score, n.system_tags,
    n.extra
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
    detection_source = CASE WHEN $22 = 'graph' THEN i.detection_source ELSE excluded.detection_source END,
    tags = excluded.tags,
    description = CASE WHEN $22 = 'graph' THEN excluded.description ELSE i.description END,
    summary = CASE WHEN $22 = 'graph' THEN excluded.summary ELSE i.summary END,
    resolving_comment = CASE WHEN $22 = 'graph' THEN excluded.resolving_comment ELSE i.resolving_comment END,
    last_modified_by = CASE WHEN $22 = 'graph' THEN excluded.last_modified_by ELSE i.last_modified_by END,
    priority_score = CASE WHEN $22 = 'graph' THEN excluded.priority_score ELSE i.priority_score END,
    system_tags = CASE WHEN $22 = 'graph' THEN excluded.system_tags ELSE i.system_tags END,
    extra = excluded.extra,
    changed_at = now()
WHERE i.last_update_time <= excluded.last_update_time
