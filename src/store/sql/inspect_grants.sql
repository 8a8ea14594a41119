-- inspect_grants
-- The roles whose grants have no effect, because no role has both the oid and the name that they were made for.
SELECT DISTINCT reader::text
FROM defender.reader_tenants
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE oid = reader_oid AND rolname = reader)
ORDER BY 1
