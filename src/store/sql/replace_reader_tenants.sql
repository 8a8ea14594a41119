-- replace_reader_tenants: the role $1 sees the tenants $2 and no others.
WITH taken AS (DELETE FROM defender.reader_tenants WHERE reader = $1::text AND tenant_id <> ALL($2::uuid[]))
INSERT INTO defender.reader_tenants (reader, tenant_id) SELECT $1::text, unnest($2::uuid[]) ON CONFLICT DO NOTHING
