-- replace_reader_tenants: the role $1 sees the tenants $2 and no others, also under an earlier name.
WITH role AS (SELECT oid, rolname FROM pg_roles WHERE rolname = $1::text),
taken AS (
    DELETE FROM defender.reader_tenants USING role
    WHERE (reader = rolname AND tenant_id <> ALL ($2::uuid[])) OR (reader_oid = oid AND reader <> rolname)
)
INSERT INTO defender.reader_tenants (reader, tenant_id, reader_oid)
SELECT DISTINCT rolname, unnest($2::uuid[]), oid FROM role
ON CONFLICT (reader, tenant_id) DO UPDATE SET reader_oid = excluded.reader_oid
WHERE reader_tenants.reader_oid <> excluded.reader_oid
