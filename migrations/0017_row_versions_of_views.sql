-- row_version in reporting.incidents, alerts and evidence, and the changes that rows show of other tables: the incident of an
-- alert and whether it was merged, counts, and the last incident of a chain of merges.
--
-- Where a row may enter or leave a view because another one changed, it gets a new version and a deletion of the same
-- version: a pipeline that finds the row keeps it, one that does not deletes it. So no rule of a view stands here twice.
--
-- Takes a second for a million incidents: one partial index is built, no table is rewritten.

CREATE INDEX incidents_by_redirect ON defender.incidents (tenant_id, redirect_incident_id)
    WHERE redirect_incident_id IS NOT NULL;

CREATE FUNCTION defender.renew_alerts(changed uuid, alert_ids text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH renewed_alerts AS (
        UPDATE defender.alerts SET row_version = defender.new_row_version()
        WHERE tenant_id = changed AND alert_id = ANY (alert_ids)
        RETURNING alert_id
    ),
    renewed_evidence AS (
        UPDATE defender.evidence SET row_version = defender.new_row_version()
        WHERE tenant_id = changed AND alert_id = ANY (alert_ids)
        RETURNING alert_id, evidence_hash
    )
    INSERT INTO defender.deletions (tenant_id, view_name, key)
    SELECT changed, 'alerts', jsonb_build_object('tenant_id', changed, 'alert_id', a.alert_id) FROM renewed_alerts a
    UNION ALL
    SELECT changed, 'evidence',
        jsonb_build_object('tenant_id', changed, 'alert_id', e.alert_id, 'evidence_hash', to_jsonb(e.evidence_hash))
    FROM renewed_evidence e;
END $$;
COMMENT ON FUNCTION defender.renew_alerts IS 'Gives alerts and their evidence a new version, because their incident changed for them';
REVOKE EXECUTE ON FUNCTION defender.renew_alerts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION defender.renew_alerts TO incident_sync_writer;

-- Incidents that were merged, stored after their alerts, or deleted before them.
CREATE FUNCTION defender.renew_alerts_of_incidents() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM defender.renew_alerts(a.tenant_id, array_agg(a.alert_id))
    FROM changed_rows c
    JOIN defender.alerts a ON a.tenant_id = c.tenant_id AND a.incident_id = c.incident_id
    GROUP BY a.tenant_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_alerts_of_incidents IS 'Renews the alerts of incidents that came or went';
CREATE FUNCTION defender.renew_alerts_of_merge() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM defender.renew_alerts(NEW.tenant_id, array_agg(a.alert_id))
    FROM defender.alerts a
    WHERE a.tenant_id = NEW.tenant_id AND a.incident_id IN (OLD.incident_id, NEW.incident_id)
    HAVING count(*) > 0;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_alerts_of_merge IS 'Renews the alerts of an incident that was merged or is no longer';
-- Of all incidents of a chain, since each shows its last one.
CREATE FUNCTION defender.renew_chain() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed constant uuid := coalesce(NEW.tenant_id, OLD.tenant_id);
    changed_incident constant bigint := coalesce(NEW.incident_id, OLD.incident_id);
BEGIN
    WITH RECURSIVE chain (incident_id) AS (
        SELECT changed_incident
        UNION
        SELECT i.incident_id
        FROM chain c
        JOIN defender.incidents i ON i.tenant_id = changed AND i.redirect_incident_id = c.incident_id
    )
    UPDATE defender.incidents SET row_version = defender.new_row_version()
    WHERE tenant_id = changed AND incident_id IN (SELECT c.incident_id FROM chain c WHERE c.incident_id <> changed_incident);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_chain IS 'Renews the incidents that were merged into a changed one';
CREATE TRIGGER renew_alerts_of_inserted AFTER INSERT ON defender.incidents REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_alerts_of_incidents();
CREATE TRIGGER renew_alerts_of_deleted AFTER DELETE ON defender.incidents REFERENCING OLD TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_alerts_of_incidents();
CREATE TRIGGER renew_alerts_of_merged AFTER UPDATE ON defender.incidents FOR EACH ROW
    WHEN (OLD.is_merged <> NEW.is_merged OR OLD.incident_id <> NEW.incident_id)
    EXECUTE FUNCTION defender.renew_alerts_of_merge();
CREATE TRIGGER renew_chain_of_inserted AFTER INSERT ON defender.incidents FOR EACH ROW
    WHEN (NEW.redirect_incident_id <> NEW.incident_id) EXECUTE FUNCTION defender.renew_chain();
CREATE TRIGGER renew_chain_of_deleted AFTER DELETE ON defender.incidents FOR EACH ROW
    WHEN (OLD.redirect_incident_id <> OLD.incident_id) EXECUTE FUNCTION defender.renew_chain();
CREATE TRIGGER renew_chain_of_updated AFTER UPDATE ON defender.incidents FOR EACH ROW
    WHEN (OLD.redirect_incident_id IS DISTINCT FROM NEW.redirect_incident_id) EXECUTE FUNCTION defender.renew_chain();

-- Alerts that moved, came after their evidence, or went before it; and the counts of their incidents.
CREATE FUNCTION defender.renew_moved_alert() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM defender.renew_alerts(NEW.tenant_id, ARRAY[OLD.alert_id, NEW.alert_id]);
    UPDATE defender.incidents SET row_version = defender.new_row_version()
    WHERE tenant_id = NEW.tenant_id AND incident_id IN (OLD.incident_id, NEW.incident_id);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_moved_alert IS 'Renews a moved alert, its evidence, and the incidents that count it';
CREATE FUNCTION defender.renew_evidence_of_alerts() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    version constant bigint := defender.new_row_version();
BEGIN
    PERFORM defender.renew_alerts(c.tenant_id, array_agg(c.alert_id))
    FROM changed_rows c
    WHERE EXISTS (SELECT FROM defender.evidence e
        WHERE e.tenant_id = c.tenant_id AND e.alert_id = c.alert_id AND e.row_version <> version)
    GROUP BY c.tenant_id;
    UPDATE defender.incidents i SET row_version = version
    FROM (SELECT DISTINCT tenant_id, incident_id FROM changed_rows) c
    WHERE i.tenant_id = c.tenant_id AND i.incident_id = c.incident_id AND i.row_version <> version;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_evidence_of_alerts IS 'Renews the evidence of alerts that came or went, and the incidents that count them';
CREATE TRIGGER renew_evidence_of_inserted AFTER INSERT ON defender.alerts REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_evidence_of_alerts();
CREATE TRIGGER renew_evidence_of_deleted AFTER DELETE ON defender.alerts REFERENCING OLD TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_evidence_of_alerts();
CREATE TRIGGER renew_moved_alert AFTER UPDATE ON defender.alerts FOR EACH ROW
    WHEN (OLD.incident_id <> NEW.incident_id OR OLD.alert_id <> NEW.alert_id) EXECUTE FUNCTION defender.renew_moved_alert();

-- Evidence and devices, which alerts and incidents count.
CREATE FUNCTION defender.renew_counting_rows() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    version constant bigint := defender.new_row_version();
BEGIN
    WITH counting AS (
        SELECT a.tenant_id, a.alert_id, a.incident_id, a.row_version
        FROM (SELECT DISTINCT tenant_id, alert_id FROM changed_rows) c
        JOIN defender.alerts a ON a.tenant_id = c.tenant_id AND a.alert_id = c.alert_id
    ),
    renewed_alerts AS (
        UPDATE defender.alerts a SET row_version = version FROM counting c
        WHERE a.tenant_id = c.tenant_id AND a.alert_id = c.alert_id AND c.row_version <> version
    )
    UPDATE defender.incidents i SET row_version = version
    FROM (SELECT DISTINCT tenant_id, incident_id FROM counting) c
    WHERE i.tenant_id = c.tenant_id AND i.incident_id = c.incident_id AND i.row_version <> version;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_counting_rows IS 'Renews the alerts and incidents that count changed evidence or devices';
REVOKE EXECUTE ON FUNCTION defender.renew_alerts_of_incidents, defender.renew_alerts_of_merge, defender.renew_chain,
    defender.renew_moved_alert, defender.renew_evidence_of_alerts, defender.renew_counting_rows FROM PUBLIC;
CREATE TRIGGER renew_counting_inserted AFTER INSERT ON defender.alert_devices REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_counting_rows();
CREATE TRIGGER renew_counting_updated AFTER UPDATE ON defender.alert_devices REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_counting_rows();
CREATE TRIGGER renew_counting_deleted AFTER DELETE ON defender.alert_devices REFERENCING OLD TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_counting_rows();
CREATE TRIGGER renew_counting_inserted AFTER INSERT ON defender.evidence REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_counting_rows();
-- A new verdict changes no count; another name of a user may.
CREATE FUNCTION defender.renew_counting_users() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM defender.renew_alerts(NEW.tenant_id, ARRAY[OLD.alert_id, NEW.alert_id]);
    UPDATE defender.incidents SET row_version = defender.new_row_version()
    WHERE tenant_id = NEW.tenant_id AND incident_id IN (SELECT a.incident_id FROM defender.alerts a
        WHERE a.tenant_id = NEW.tenant_id AND a.alert_id IN (OLD.alert_id, NEW.alert_id));
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_counting_users IS 'Renews the alert and the incident of evidence with another user or alert';
REVOKE EXECUTE ON FUNCTION defender.renew_counting_users FROM PUBLIC;
CREATE TRIGGER renew_counting_users AFTER UPDATE ON defender.evidence FOR EACH ROW
    WHEN ((OLD.alert_id, OLD.entity_type, OLD.user_principal_name, OLD.aad_user_id, OLD.user_sid, OLD.account_name)
        IS DISTINCT FROM (NEW.alert_id, NEW.entity_type, NEW.user_principal_name, NEW.aad_user_id, NEW.user_sid, NEW.account_name))
    EXECUTE FUNCTION defender.renew_counting_users();
CREATE TRIGGER renew_counting_deleted AFTER DELETE ON defender.evidence REFERENCING OLD TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION defender.renew_counting_rows();

-- Where is_listed is no column but a comparison with the version of the incident. At the end of the transaction, because a
-- page writes an incident before its alerts.
CREATE FUNCTION defender.renew_unlisted_alerts() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE defender.alerts SET row_version = defender.new_row_version()
    WHERE tenant_id = NEW.tenant_id AND incident_id = NEW.incident_id
        AND last_seen >= least(OLD.last_update_time, NEW.last_update_time)
        AND last_seen < greatest(OLD.last_update_time, NEW.last_update_time);
    UPDATE defender.incidents SET row_version = defender.new_row_version()
    WHERE tenant_id = NEW.tenant_id AND incident_id = NEW.incident_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_unlisted_alerts IS 'Renews the alerts that a new version of their incident no longer lists';
REVOKE EXECUTE ON FUNCTION defender.renew_unlisted_alerts FROM PUBLIC;
CREATE FUNCTION defender.renew_relisted_incident() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE defender.incidents SET row_version = defender.new_row_version()
    WHERE tenant_id = NEW.tenant_id AND incident_id = NEW.incident_id AND row_version <> defender.new_row_version();
    RETURN NULL;
END $$;
COMMENT ON FUNCTION defender.renew_relisted_incident IS 'Renews the incident of an alert that it lists again or no longer';
REVOKE EXECUTE ON FUNCTION defender.renew_relisted_incident FROM PUBLIC;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = 'defender.alerts'::regclass AND attname = 'is_listed' AND NOT attisdropped) THEN
        CREATE CONSTRAINT TRIGGER renew_unlisted_alerts AFTER UPDATE ON defender.incidents
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.last_update_time <> NEW.last_update_time)
            EXECUTE FUNCTION defender.renew_unlisted_alerts();
        CREATE TRIGGER renew_relisted_incident AFTER UPDATE ON defender.alerts
            FOR EACH ROW WHEN (OLD.last_seen <> NEW.last_seen) EXECUTE FUNCTION defender.renew_relisted_incident();
    ELSE
        CREATE TRIGGER renew_relisted_incident AFTER UPDATE ON defender.alerts
            FOR EACH ROW WHEN (OLD.* *<> NEW.*) EXECUTE FUNCTION defender.renew_relisted_incident();
    END IF;
END $$;

-- The views as the migrations before left them, with the columns at their end. 0016_row_versions.sql says why by a join.
DO $$
DECLARE
    extended record;
    definition text;
    columns text;
BEGIN
    FOR extended IN SELECT * FROM (VALUES
        ('incidents', 'incident_id', ''), ('alerts', 'alert_id', ''), ('evidence', 'alert_id', 'evidence_hash'))
        AS views(name, key, hash)
    LOOP
        definition := rtrim(pg_get_viewdef(format('reporting.%I', extended.name)::regclass), ';');
        SELECT string_agg('s.' || quote_ident(attname), ', ' ORDER BY attnum) INTO columns
        FROM pg_attribute WHERE attrelid = format('reporting.%I', extended.name)::regclass AND attnum > 0;
        IF extended.hash <> '' THEN
            definition := replace(definition, 'AS evidence_key,', 'AS evidence_key, e.evidence_hash,');
            columns := columns || ', s.evidence_hash';
        END IF;
        EXECUTE format('CREATE OR REPLACE VIEW reporting.%1$I WITH (security_invoker = true, security_barrier = true) AS
            SELECT %2$s, v.row_version
            FROM (%3$s) s
            LEFT JOIN defender.schema_info f ON f.only_row = (s.tenant_id IS NOT NULL)
            LEFT JOIN defender.%1$I v ON v.tenant_id = s.tenant_id AND v.%4$I = s.%4$I %5$s
                AND v.row_version < pg_snapshot_xmin(pg_current_snapshot())::text::bigint + f.feed_offset',
            extended.name, columns, definition, extended.key,
            CASE WHEN extended.hash <> '' THEN format('AND v.%1$I = s.%1$I', extended.hash) END);
        EXECUTE format('COMMENT ON COLUMN reporting.%I.row_version IS %L', extended.name,
            'Position of the last change of the row, as in the change feed: a pipeline stores the greatest one that it has read and queries greater ones. All rows of one transaction have the same. NULL for a moment after a change, while an older transaction runs; in deletions the row appears then');
    END LOOP;
END $$;
COMMENT ON COLUMN reporting.evidence.evidence_hash IS 'Identifies the entity within its alert, as in deletions; evidence_key is its hexadecimal form';
