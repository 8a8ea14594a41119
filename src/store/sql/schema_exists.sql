-- schema_exists
SELECT to_regclass('defender.schema_info') IS NOT NULL
