-- inspect_grants
-- Grants without effect, because no role has both their oid and their name.
SELECT DISTINCT reader::text
FROM defender.reader_tenants
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE oid = reader_oid AND rolname = reader)
ORDER BY 1
