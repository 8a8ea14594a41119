-- Names inside functions mean what they meant when the function was written, whatever search_path its caller has.
--
-- Whoever may create functions in a schema of the caller's path (public in an upgraded cluster; "$user", which after SET ROLE
-- is a schema named like one of the roles of incident-sync) could otherwise provide an overload that fits better than the
-- built-in function, and it would run with the caller's rights. SET keeps the planner from inlining a function. Those that it
-- inlines have a body that Postgres parses when the function is defined.

ALTER FUNCTION defender.protect(regclass) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION defender.note_milestones() SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION defender.note_change() SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION defender.summarise(uuid) SET search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION defender.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
-- Empty after a transaction that had set it, and absent in a new session: both mean no tenant.
RETURN nullif(current_setting('incident_sync.tenant_id', true), '')::uuid;

CREATE OR REPLACE FUNCTION defender.is_acknowledged(status text, assigned_to text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(status NOT IN ('Active', 'New', 'Redirected'), false)
    OR coalesce(lower(assigned_to) NOT IN ('', 'automation'), false);

CREATE OR REPLACE FUNCTION defender.severity_rank(severity text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE severity WHEN 'High' THEN 4 WHEN 'Medium' THEN 3 WHEN 'Low' THEN 2 WHEN 'Informational' THEN 1 ELSE 0 END;

CREATE OR REPLACE FUNCTION defender.severity_of_rank(rank integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY['UnSpecified', 'Informational', 'Low', 'Medium', 'High'])[rank + 1];

-- The change_id of each new row: an expression that the planner puts in place of the call, and one call per transaction.
CREATE FUNCTION defender.begin_changes() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lowest constant bigint := defender.continue_feed();
BEGIN
    PERFORM set_config('incident_sync.feed', pg_current_xact_id()::text || ' ' || lowest, true);
    RETURN lowest;
END $$;
COMMENT ON FUNCTION defender.begin_changes IS 'The lowest change_id of this transaction, kept in a setting for its other rows';
REVOKE EXECUTE ON FUNCTION defender.begin_changes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.begin_changes TO incident_sync_writer;

CREATE OR REPLACE FUNCTION defender.next_change_id() RETURNS bigint
LANGUAGE sql
RETURN CASE
    WHEN split_part(current_setting('incident_sync.feed', true), ' ', 1) = pg_current_xact_id()::text
        THEN split_part(current_setting('incident_sync.feed', true), ' ', 2)::bigint
    ELSE defender.begin_changes()
END + nextval('defender.incident_changes_number');

-- The setting of the path is paid for with each row. Rows whose milestones cannot change, as when counts are written, do not
-- call the function: these are the columns that it reads and writes.
CREATE OR REPLACE TRIGGER note_milestones
    BEFORE INSERT OR UPDATE OF incident_id, redirect_incident_id, status, assigned_to, last_update_time, is_merged,
        acknowledged_at, acknowledged_at_is_exact, resolved_at, resolved_at_is_exact, reopened_count
    ON defender.incidents
    FOR EACH ROW EXECUTE FUNCTION defender.note_milestones();
