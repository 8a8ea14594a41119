-- restore_sync_state
-- Takes only the progress of the tenant from an import, limited to the time of the export; a watermark far beyond that is
-- dropped, and the tenant is read from the beginning. Lease, fence, failures and due times are those of a new row.
-- A pause or quota that is still valid is kept, limited to the longest possible one. `status` prints the texts: terminal
-- control characters are removed.
INSERT INTO defender.sync_state (tenant_id, watermark, backfilled_at, last_attempt_at, last_success_at, found_late,
    no_calls_before, minute_quota_at, hour_quota_at, parked_by, parked_reason, error_class, error_message, who_must_act,
    source, alerts_watermark)
SELECT tenant_id,
    CASE WHEN is_certain THEN least(watermark, until) END,
    CASE WHEN is_certain AND backfilled_at >= '0001-01-01 00:00Z' THEN least(backfilled_at, until) END,
    CASE WHEN last_attempt_at >= '0001-01-01 00:00Z' THEN least(last_attempt_at, until) END,
    CASE WHEN last_success_at >= '0001-01-01 00:00Z' THEN least(last_success_at, until) END,
    least(greatest(found_late, 0), 4611686018427387903),
    CASE WHEN no_calls_before > now() THEN least(no_calls_before, now() + interval '6 hours') ELSE '-infinity' END,
    CASE WHEN minute_quota_at > now() THEN least(minute_quota_at, now() + interval '1 minute') ELSE '-infinity' END,
    CASE WHEN hour_quota_at > now() THEN least(hour_quota_at, now() + interval '1 hour') ELSE '-infinity' END,
    parker,
    CASE WHEN parker IS NOT NULL THEN reason END,
    CASE WHEN parker IS NOT NULL THEN 'parked' END,
    CASE WHEN parker IS NOT NULL THEN reason END,
    CASE WHEN parker IS NOT NULL THEN 'operator' END,
    -- An export of an earlier release has none.
    CASE WHEN source IN ('defender', 'graph') THEN source ELSE 'defender' END,
    CASE WHEN are_alerts_certain THEN least(alerts_watermark, until) END
FROM (
    SELECT s.*, least($2::timestamptz, now()) AS until,
        coalesce(watermark BETWEEN '0001-01-01 00:00Z' AND least($2::timestamptz, now()) + interval '1 day', false)
            AS is_certain,
        coalesce(alerts_watermark BETWEEN '0001-01-01 00:00Z' AND least($2::timestamptz, now()) + interval '1 day', false)
            AS are_alerts_certain,
        regexp_replace(parked_by, '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]', '', 'g') AS parker,
        regexp_replace(parked_reason, '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]', '', 'g') AS reason
    FROM json_populate_recordset(NULL::defender.sync_state, $1::json) s
) restored
