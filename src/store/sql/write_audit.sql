-- write_audit
INSERT INTO defender.audit (tenant_id, action, actor, row_counts) VALUES ($1, $2, $3, $4)
