-- reader_statements: the remaining statements that make the role $1 a member of $2 and not of $3. Existing settings of the
-- role stay.
WITH reader AS (SELECT oid FROM pg_roles WHERE rolname = $1::text),
-- Since 16 each grantor's membership is a row of its own, and REVOKE removes that of its own grantor only; for another
-- grantor it warns and changes nothing. Older servers have one row, which REVOKE removes for any grantor.
server AS (SELECT current_setting('server_version_num')::integer >= 160000 AS is_by_grantor),
memberships AS (
    SELECT held.rolname::text AS held, format(' GRANTED BY %I', grantor.rolname) AS granted_by
    FROM pg_auth_members
    JOIN pg_roles held ON held.oid = roleid
    LEFT JOIN pg_roles grantor ON grantor.oid = pg_auth_members.grantor
    WHERE member IN (SELECT oid FROM reader)
),
settings AS (
    SELECT split_part(unnest(setconfig), '=', 1) AS setting FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
    WHERE setrole IN (SELECT oid FROM reader) AND datname = current_database()
)
SELECT statement FROM (
    SELECT 1 AS place, format('CREATE ROLE %I LOGIN CONNECTION LIMIT 10', $1::text) AS statement
    WHERE NOT EXISTS (SELECT FROM reader)
    UNION ALL
    SELECT 2, format('GRANT %I TO %I%s', $2::text, $1::text, CASE WHEN is_by_grantor THEN ' WITH INHERIT TRUE' END)
    FROM server
    WHERE $2::text NOT IN (SELECT held FROM memberships)
        OR NOT EXISTS (SELECT FROM reader WHERE pg_has_role(oid, $2::text, 'USAGE'))
    UNION ALL
    SELECT 3, format('REVOKE %I FROM %I%s', held, $1::text, CASE WHEN is_by_grantor THEN granted_by END)
    FROM memberships, server
    WHERE held = $3::text
    UNION ALL
    SELECT 4, format('ALTER ROLE %I IN DATABASE %I SET %I = %L', $1::text, current_database(), wanted.setting, value)
    FROM (VALUES ('default_transaction_read_only', 'on'), ('statement_timeout', '5min'), ('jit', 'off'),
        ('idle_in_transaction_session_timeout', '1min')) wanted (setting, value)
    WHERE wanted.setting NOT IN (SELECT setting FROM settings)
) missing
ORDER BY place, statement
