-- The state of the synchronisation has bounds, so that one row is the trouble of one tenant. Statements about all tenants
-- subtract its times, add one to its fences and counters, and decode the result: an infinite time or a fence at the end of
-- its type would make each of them fail. Times have a year of four digits; fences and counters leave room for the next one.
-- The times of the quotas may also be '-infinity', which stands for "no call yet"; they are compared and never decoded.

CREATE VIEW defender.bounded_state WITH (security_invoker = true, security_barrier = true) AS
SELECT tenant_id,
    CASE WHEN watermark BETWEEN b.earliest AND b.latest THEN watermark END AS watermark,
    CASE WHEN backfilled_at BETWEEN b.earliest AND b.latest THEN backfilled_at END AS backfilled_at,
    CASE WHEN last_attempt_at BETWEEN b.earliest AND b.latest THEN last_attempt_at END AS last_attempt_at,
    CASE WHEN last_success_at BETWEEN b.earliest AND b.latest THEN last_success_at END AS last_success_at,
    CASE WHEN consecutive_failures BETWEEN 0 AND 1000000 THEN consecutive_failures ELSE 0 END AS consecutive_failures,
    CASE WHEN next_attempt_at BETWEEN b.earliest AND b.latest THEN next_attempt_at END AS next_attempt_at,
    CASE WHEN poll_due_at BETWEEN b.earliest AND b.latest THEN poll_due_at END AS poll_due_at,
    CASE WHEN minute_quota_at BETWEEN b.earliest AND b.latest THEN minute_quota_at END AS minute_quota_at,
    CASE WHEN hour_quota_at BETWEEN b.earliest AND b.latest THEN hour_quota_at END AS hour_quota_at,
    CASE WHEN no_calls_before BETWEEN b.earliest AND b.latest THEN no_calls_before END AS no_calls_before,
    CASE WHEN found_late BETWEEN 0 AND 4611686018427387903 THEN found_late ELSE 0 END AS found_late,
    array_remove(ARRAY[
        CASE WHEN watermark NOT BETWEEN b.earliest AND b.latest THEN 'watermark' END,
        CASE WHEN backfilled_at NOT BETWEEN b.earliest AND b.latest THEN 'backfilled_at' END,
        CASE WHEN last_attempt_at NOT BETWEEN b.earliest AND b.latest THEN 'last_attempt_at' END,
        CASE WHEN last_success_at NOT BETWEEN b.earliest AND b.latest THEN 'last_success_at' END,
        CASE WHEN (consecutive_failures BETWEEN 0 AND 1000000) IS NOT TRUE THEN 'consecutive_failures' END,
        CASE WHEN (next_attempt_at BETWEEN b.earliest AND b.latest) IS NOT TRUE THEN 'next_attempt_at' END,
        CASE WHEN (poll_due_at BETWEEN b.earliest AND b.latest) IS NOT TRUE THEN 'poll_due_at' END,
        CASE WHEN (open_due_at BETWEEN b.earliest AND b.latest) IS NOT TRUE THEN 'open_due_at' END,
        CASE WHEN (reconcile_due_at BETWEEN b.earliest AND b.latest) IS NOT TRUE THEN 'reconcile_due_at' END,
        CASE WHEN lease_expires_at NOT BETWEEN b.earliest AND b.latest THEN 'lease_expires_at' END,
        -- One less than the constraint allows: a claim needs the next one.
        CASE WHEN (lease_fence BETWEEN 0 AND 4611686018427387902) IS NOT TRUE THEN 'lease_fence' END,
        CASE WHEN (minute_quota_at BETWEEN b.earliest AND b.latest OR minute_quota_at = '-infinity') IS NOT TRUE
            THEN 'minute_quota_at' END,
        CASE WHEN (hour_quota_at BETWEEN b.earliest AND b.latest OR hour_quota_at = '-infinity') IS NOT TRUE
            THEN 'hour_quota_at' END,
        CASE WHEN (no_calls_before BETWEEN b.earliest AND b.latest OR no_calls_before = '-infinity') IS NOT TRUE
            THEN 'no_calls_before' END,
        CASE WHEN (found_late BETWEEN 0 AND 4611686018427387903) IS NOT TRUE THEN 'found_late' END
    ], NULL) AS out_of_bounds
FROM defender.sync_state
CROSS JOIN (VALUES (timestamptz '0001-01-01 00:00Z', timestamptz '9999-12-31 23:59:59.999999Z')) AS b(earliest, latest);
COMMENT ON VIEW defender.bounded_state IS 'The state of each tenant as statements about all tenants may use it: a value that is out of bounds is NULL, or 0, and its column is named';
COMMENT ON COLUMN defender.bounded_state.tenant_id IS 'The customer''s Entra tenant';
COMMENT ON COLUMN defender.bounded_state.watermark IS 'As in sync_state, if it is within bounds';
COMMENT ON COLUMN defender.bounded_state.backfilled_at IS 'As in sync_state, if it is within bounds';
COMMENT ON COLUMN defender.bounded_state.last_attempt_at IS 'As in sync_state, if it is within bounds';
COMMENT ON COLUMN defender.bounded_state.last_success_at IS 'As in sync_state, if it is within bounds';
COMMENT ON COLUMN defender.bounded_state.consecutive_failures IS 'As in sync_state, if it is within bounds';
COMMENT ON COLUMN defender.bounded_state.next_attempt_at IS 'As in sync_state, if it is within bounds';
COMMENT ON COLUMN defender.bounded_state.poll_due_at IS 'As in sync_state, if it is within bounds';
COMMENT ON COLUMN defender.bounded_state.minute_quota_at IS 'As in sync_state, if it is within bounds and some call was made';
COMMENT ON COLUMN defender.bounded_state.hour_quota_at IS 'As in sync_state, if it is within bounds and some call was made';
COMMENT ON COLUMN defender.bounded_state.no_calls_before IS 'As in sync_state, if it is within bounds and the service asked for a pause';
COMMENT ON COLUMN defender.bounded_state.found_late IS 'As in sync_state, if it is within bounds';
COMMENT ON COLUMN defender.bounded_state.out_of_bounds IS 'Columns of sync_state whose value is out of bounds; empty for a tenant whose state is valid';
GRANT SELECT ON defender.bounded_state TO incident_sync_dispatcher, incident_sync_reader;

-- A row that is out of bounds already is corrected: its tenant is read again from the last time that is certain.
ALTER TABLE defender.sync_state NO FORCE ROW LEVEL SECURITY;
ALTER TABLE defender.tenants NO FORCE ROW LEVEL SECURITY;
UPDATE defender.sync_state s SET
    watermark = b.watermark,
    backfilled_at = CASE WHEN b.watermark IS NOT NULL THEN b.backfilled_at END,
    last_attempt_at = b.last_attempt_at,
    last_success_at = b.last_success_at,
    consecutive_failures = b.consecutive_failures,
    next_attempt_at = coalesce(b.next_attempt_at, now()),
    poll_due_at = coalesce(b.poll_due_at, now()),
    open_due_at = now(),
    reconcile_due_at = now(),
    lease_owner = NULL,
    lease_expires_at = NULL,
    lease_fence = CASE WHEN 'lease_fence' = ANY (b.out_of_bounds) THEN 0 ELSE s.lease_fence END,
    minute_quota_at = coalesce(b.minute_quota_at, '-infinity'),
    hour_quota_at = coalesce(b.hour_quota_at, '-infinity'),
    no_calls_before = coalesce(b.no_calls_before, '-infinity'),
    found_late = b.found_late
FROM defender.bounded_state b
WHERE b.tenant_id = s.tenant_id AND b.out_of_bounds <> '{}';
UPDATE defender.tenants SET
    first_seen_at = CASE WHEN first_seen_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'
        THEN first_seen_at ELSE now() END,
    removed_at = CASE WHEN removed_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z' THEN removed_at
        WHEN removed_at IS NOT NULL THEN now() END
WHERE first_seen_at NOT BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'
    OR removed_at NOT BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z';
ALTER TABLE defender.sync_state FORCE ROW LEVEL SECURITY;
ALTER TABLE defender.tenants FORCE ROW LEVEL SECURITY;

-- One constraint a column: what Postgres says of a refused value is the name of the constraint.
ALTER TABLE defender.sync_state
    ADD CONSTRAINT watermark_is_bounded
        CHECK (watermark BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT backfilled_at_is_bounded
        CHECK (backfilled_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT last_attempt_at_is_bounded
        CHECK (last_attempt_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT last_success_at_is_bounded
        CHECK (last_success_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT consecutive_failures_is_bounded CHECK (consecutive_failures BETWEEN 0 AND 1000000),
    ADD CONSTRAINT next_attempt_at_is_bounded
        CHECK (next_attempt_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT poll_due_at_is_bounded
        CHECK (poll_due_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT open_due_at_is_bounded
        CHECK (open_due_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT reconcile_due_at_is_bounded
        CHECK (reconcile_due_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT lease_expires_at_is_bounded
        CHECK (lease_expires_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT lease_fence_is_bounded CHECK (lease_fence BETWEEN 0 AND 4611686018427387903),
    ADD CONSTRAINT minute_quota_at_is_bounded CHECK (minute_quota_at = '-infinity'
        OR minute_quota_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT hour_quota_at_is_bounded CHECK (hour_quota_at = '-infinity'
        OR hour_quota_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT no_calls_before_is_bounded CHECK (no_calls_before = '-infinity'
        OR no_calls_before BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT found_late_is_bounded CHECK (found_late BETWEEN 0 AND 4611686018427387903);
ALTER TABLE defender.tenants
    ADD CONSTRAINT first_seen_at_is_bounded
        CHECK (first_seen_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'),
    ADD CONSTRAINT removed_at_is_bounded
        CHECK (removed_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z');

-- Rows that nobody updates: those that are there are not read through.
ALTER TABLE defender.sync_runs
    ADD CONSTRAINT started_at_is_bounded
        CHECK (started_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z') NOT VALID,
    ADD CONSTRAINT finished_at_is_bounded
        CHECK (finished_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z') NOT VALID;
ALTER TABLE defender.sync_gaps
    ADD CONSTRAINT window_from_is_bounded
        CHECK (window_from BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z') NOT VALID,
    ADD CONSTRAINT window_to_is_bounded
        CHECK (window_to BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z') NOT VALID;
COMMENT ON COLUMN defender.sync_state.lease_fence IS 'Grows with each claim, up to 2^62 - 1; every write transaction checks it';
