-- What the API could not serve: remembered here, so that the watermark may pass it and nothing is forgotten.

CREATE TABLE defender.sync_gaps (
    tenant_id     uuid NOT NULL,
    window_from   timestamptz NOT NULL,
    window_to     timestamptz NOT NULL,
    error_class   text NOT NULL,
    error_message text NOT NULL,
    observed_at   timestamptz NOT NULL DEFAULT now(),
    last_tried_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, window_from)
);
COMMENT ON TABLE defender.sync_gaps IS 'Ranges of lastUpdateTime that the API fails to serve, for ever or for now; each is tried again by every reading of open incidents and every reconciliation, and its row goes when it was read';
COMMENT ON COLUMN defender.sync_gaps.window_from IS 'First lastUpdateTime inside';
COMMENT ON COLUMN defender.sync_gaps.window_to IS 'First lastUpdateTime beyond';
COMMENT ON COLUMN defender.sync_gaps.error_message IS 'The API''s last error, with the tracking id that a ticket with Microsoft needs';

SELECT defender.protect('defender.sync_gaps');
GRANT SELECT, INSERT, UPDATE, DELETE ON defender.sync_gaps TO incident_sync_writer;
GRANT SELECT ON defender.sync_gaps TO incident_sync_tenant_reader;
