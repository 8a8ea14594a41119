-- Tenants whose removal is held back.
--
-- Takes milliseconds: tenants has one row for each tenant.

ALTER TABLE defender.tenants
    ADD COLUMN missing_since timestamptz
        CONSTRAINT missing_since_is_bounded CHECK (missing_since BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z');
COMMENT ON COLUMN defender.tenants.missing_since IS 'Since when the configuration does not name the tenant although its removal is not confirmed; NULL otherwise';

COMMENT ON COLUMN defender.audit.action IS 'purge begun, purged, retention, restored, person erased, parked, resumed, removal confirmed, source set to defender, source set to graph';
