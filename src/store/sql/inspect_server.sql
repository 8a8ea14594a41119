-- inspect_server
-- Properties of the server and the database; works before the first migration.
SELECT current_setting('server_version_num')::integer,
    current_setting('server_version'),
    current_setting('server_encoding'),
    pg_is_in_recovery(),
    current_setting('transaction_read_only')::boolean,
    (SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only'),
    current_database()::text,
    current_user::text,
    EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('defender') AND relname = 'schema_info')
