-- Payloads byte for byte as the API served them, in place of the form that Postgres gives to jsonb: the content hash can be
-- checked against them, and a first sync takes a third less of Postgres's time.
--
-- Rewrites incident_payloads under an exclusive lock: about a minute for each million incidents. Rows that were stored before
-- keep the form of jsonb (keys in another order, numbers written out) until their incident changes.

DO $$
BEGIN
    -- A new type resets the compression, and the rewrite already compresses.
    ALTER TABLE defender.incident_payloads ALTER COLUMN payload TYPE json, ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    ALTER TABLE defender.incident_payloads ALTER COLUMN payload TYPE json;
END $$;
COMMENT ON COLUMN defender.incident_payloads.payload IS 'The incident byte for byte as served, alerts and evidence included; only NUL and lone surrogates are replaced with \ufffd. Cast it to jsonb for operators such as @>';
COMMENT ON COLUMN defender.incident_payloads.content_hash IS 'The first 16 bytes of SHA-256 of the served text; detects unchanged incidents without decoding';
