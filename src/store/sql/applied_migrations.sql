-- applied_migrations
SELECT version, checksum, success FROM public._sqlx_migrations
