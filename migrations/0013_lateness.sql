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
