-- clean_tenant_name
-- Removes terminal control characters from an imported name, which many commands print.
UPDATE defender.tenants
SET name = regexp_replace(name, '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]', '', 'g')
WHERE tenant_id = $1 AND name ~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
