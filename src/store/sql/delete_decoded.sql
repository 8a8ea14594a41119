-- delete_decoded
-- A version that decodes ends the quarantine of earlier versions of its incident.
DELETE FROM defender.rejected_payloads WHERE tenant_id = $1 AND incident_id = ANY ($2::bigint[])
