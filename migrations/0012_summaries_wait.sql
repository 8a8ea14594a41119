-- Whoever changes a tenant's rows while its summaries are being written waits before he looks whether they are current:
-- afterwards they are, and looking first he would have left them so.

CREATE OR REPLACE FUNCTION defender.note_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    -- Who has set no tenant may have changed the rows of any.
    changed constant uuid := nullif(current_setting('incident_sync.tenant_id', true), '')::uuid;
BEGIN
    IF changed IS NULL THEN
        INSERT INTO defender.summaries (tenant_id) SELECT tenant_id FROM defender.tenants ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO defender.summaries (tenant_id) VALUES (changed) ON CONFLICT DO NOTHING;
    END IF;
    -- Somebody who writes the summaries at this moment must wait until we have committed, or we for him.
    PERFORM FROM defender.summaries WHERE changed IS NULL OR tenant_id = changed FOR KEY SHARE;
    UPDATE defender.summaries SET is_current = false WHERE is_current AND (changed IS NULL OR tenant_id = changed);
    RETURN NULL;
END $$;
