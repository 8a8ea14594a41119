-- alerts_watermark
-- One that is later than the limit of the claim (lease.rs) came from a wrong clock and does not show what is stored.
SELECT CASE WHEN alerts_watermark BETWEEN '0001-01-01 00:00Z' AND now() + interval '1 hour' THEN alerts_watermark END
FROM defender.sync_state WHERE tenant_id = $1
