-- How late the API was seen to list changes of a tenant: its polls reach back that far.
--
-- Takes milliseconds: sync_state has one row for each tenant.

ALTER TABLE defender.sync_state
    ADD COLUMN lateness_s integer NOT NULL DEFAULT 0
        CONSTRAINT lateness_is_bounded CHECK (lateness_s BETWEEN 0 AND 604800),
    ADD COLUMN lateness_at timestamptz
        CONSTRAINT lateness_at_is_bounded CHECK (lateness_at BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z');
COMMENT ON COLUMN defender.sync_state.lateness_s IS 'Seconds that the latest listed change was behind the watermark when it was found, beyond the configured overlap; 0 if none was late';
COMMENT ON COLUMN defender.sync_state.lateness_at IS 'When lateness_s was measured; it counts for two days';
ALTER TABLE defender.sync_state ALTER COLUMN lateness_s SET STATISTICS 0, ALTER COLUMN lateness_at SET STATISTICS 0;

CREATE OR REPLACE VIEW defender.bounded_state WITH (security_invoker = true, security_barrier = true) AS
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
        -- One less than the constraint allows: a claim needs the next value.
        CASE WHEN (lease_fence BETWEEN 0 AND 4611686018427387902) IS NOT TRUE THEN 'lease_fence' END,
        CASE WHEN (minute_quota_at BETWEEN b.earliest AND b.latest OR minute_quota_at = '-infinity') IS NOT TRUE
            THEN 'minute_quota_at' END,
        CASE WHEN (hour_quota_at BETWEEN b.earliest AND b.latest OR hour_quota_at = '-infinity') IS NOT TRUE
            THEN 'hour_quota_at' END,
        CASE WHEN (no_calls_before BETWEEN b.earliest AND b.latest OR no_calls_before = '-infinity') IS NOT TRUE
            THEN 'no_calls_before' END,
        CASE WHEN (found_late BETWEEN 0 AND 4611686018427387903) IS NOT TRUE THEN 'found_late' END,
        CASE WHEN alerts_watermark NOT BETWEEN b.earliest AND b.latest THEN 'alerts_watermark' END,
        CASE WHEN (source IN ('defender', 'graph')) IS NOT TRUE THEN 'source' END,
        CASE WHEN source_since NOT BETWEEN b.earliest AND b.latest THEN 'source_since' END,
        CASE WHEN (lateness_s BETWEEN 0 AND 604800) IS NOT TRUE THEN 'lateness_s' END,
        CASE WHEN lateness_at NOT BETWEEN b.earliest AND b.latest THEN 'lateness_at' END
    ], NULL) AS out_of_bounds,
    CASE WHEN alerts_watermark BETWEEN b.earliest AND b.latest THEN alerts_watermark END AS alerts_watermark,
    CASE WHEN source IN ('defender', 'graph') THEN source ELSE 'defender' END AS source,
    CASE WHEN source_since BETWEEN b.earliest AND b.latest THEN source_since END AS source_since
FROM defender.sync_state
CROSS JOIN (VALUES (timestamptz '0001-01-01 00:00Z', timestamptz '9999-12-31 23:59:59.999999Z')) AS b(earliest, latest);
