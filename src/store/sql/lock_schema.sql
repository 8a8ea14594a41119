-- lock_schema
-- Two instances that start together would update the same rows of the catalog.
SELECT FROM defender.schema_info FOR UPDATE
