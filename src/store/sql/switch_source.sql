-- switch_source
-- One day is read again, and the last days are reconciled, because the two lists may show a change at different times. Repeated
-- after a lost response, it changes nothing more.
UPDATE defender.sync_state SET
    source = $2,
    watermark = CASE WHEN source = $2 OR watermark < '0001-01-03 00:00Z' THEN watermark ELSE watermark - interval '1 day' END,
    source_since = CASE WHEN source = $2 THEN source_since WHEN $3 THEN now() END,
    alerts_watermark = CASE WHEN source = $2 THEN alerts_watermark END,
    reconcile_due_at = CASE WHEN source = $2 THEN reconcile_due_at ELSE now() END
WHERE tenant_id = $1
RETURNING watermark, source_since
