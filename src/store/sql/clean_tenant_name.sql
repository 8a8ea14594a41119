-- clean_tenant_name
-- A name that a folder brought along is shown by many commands: without characters that a terminal obeys.
UPDATE defender.tenants
SET name = regexp_replace(name, '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]', '', 'g')
WHERE tenant_id = $1 AND name ~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
