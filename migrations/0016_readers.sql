-- A grant counts for the role that it was made for, and a session sees the tenants of the role that it acts as.

-- By oid and name: a role made again under the same name has another oid, one that was renamed has another name, and a
-- dump that is restored into another server meets other oids there. Each of these sees nothing until grant-reader runs.
ALTER TABLE defender.reader_tenants ADD COLUMN reader_oid oid NOT NULL DEFAULT 0;
UPDATE defender.reader_tenants SET reader_oid = r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = reader;
ALTER TABLE defender.reader_tenants ALTER COLUMN reader_oid DROP DEFAULT;
COMMENT ON COLUMN defender.reader_tenants.reader IS 'Name of the role when the grant was made; the grant counts while oid and name are both the role''s';
COMMENT ON COLUMN defender.reader_tenants.reader_oid IS 'oid of the role when the grant was made; 0 where the role did not exist at the migration, and the grant never counts';

-- SET ROLE narrows: a tool that logs in once and acts as one reader for each of its users shows that reader's tenants only.
-- A role set with SET ROLE need not be inherited by the login (NOINHERIT), so membership is enough there. The setting `role`
-- is the only trace of SET ROLE that a SECURITY DEFINER function has; no role can be called "none". It keeps the name that
-- was set: of a role that was dropped or renamed since, no row is found and nothing is shown.
CREATE OR REPLACE FUNCTION defender.my_tenants() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT granted.tenant_id
    FROM defender.reader_tenants granted
    JOIN pg_catalog.pg_roles reader ON reader.oid = granted.reader_oid AND reader.rolname = granted.reader
    JOIN pg_catalog.pg_roles acting ON acting.rolname = CASE pg_catalog.current_setting('role')
        WHEN 'none' THEN session_user ELSE pg_catalog.current_setting('role')::pg_catalog.name END
    WHERE pg_catalog.pg_has_role(session_user, reader.oid, 'MEMBER')
        AND pg_catalog.pg_has_role(acting.oid, reader.oid, 'USAGE')
$$;
COMMENT ON FUNCTION defender.my_tenants IS 'The tenants that the role of SET ROLE may read, or else the role that logged in';
