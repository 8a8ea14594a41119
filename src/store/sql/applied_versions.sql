-- applied_versions
SELECT version FROM public._sqlx_migrations WHERE success
