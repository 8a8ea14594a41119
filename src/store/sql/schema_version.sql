-- schema_version
SELECT oldest_supported, (SELECT max(version) FROM public._sqlx_migrations WHERE success)
FROM defender.schema_info
