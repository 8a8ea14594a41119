-- delete_incidents
-- With all dependent rows.
WITH alerts AS (
    DELETE FROM defender.alerts WHERE tenant_id = $1 AND incident_id = ANY ($2::bigint[]) RETURNING alert_id
),
alert_devices AS (
    DELETE FROM defender.alert_devices
    WHERE tenant_id = $1 AND alert_id IN (SELECT alert_id FROM alerts) RETURNING 1
),
evidence AS (
    DELETE FROM defender.evidence
    WHERE tenant_id = $1 AND alert_id IN (SELECT alert_id FROM alerts) RETURNING 1
),
incident_comments AS (
    DELETE FROM defender.incident_comments WHERE tenant_id = $1 AND incident_id = ANY ($2::bigint[]) RETURNING 1
),
incident_changes AS (
    DELETE FROM defender.incident_changes WHERE tenant_id = $1 AND incident_id = ANY ($2::bigint[]) RETURNING 1
),
incident_payloads AS (
    DELETE FROM defender.incident_payloads WHERE tenant_id = $1 AND incident_id = ANY ($2::bigint[]) RETURNING 1
),
incidents AS (
    DELETE FROM defender.incidents WHERE tenant_id = $1 AND incident_id = ANY ($2::bigint[]) RETURNING 1
)
SELECT t.name, t.deleted
FROM (VALUES
    ('incidents', (SELECT count(*) FROM incidents)),
    ('alerts', (SELECT count(*) FROM alerts)),
    ('alert_devices', (SELECT count(*) FROM alert_devices)),
    ('evidence', (SELECT count(*) FROM evidence)),
    ('incident_comments', (SELECT count(*) FROM incident_comments)),
    ('incident_changes', (SELECT count(*) FROM incident_changes)),
    ('incident_payloads', (SELECT count(*) FROM incident_payloads))
) t (name, deleted)
