-- newest_migration
SELECT max(version) FROM public._sqlx_migrations WHERE success
