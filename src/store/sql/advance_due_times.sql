-- advance_due_times
UPDATE defender.sync_state SET
    poll_due_at = least(poll_due_at, $2),
    open_due_at = least(open_due_at, $3),
    reconcile_due_at = least(reconcile_due_at, $4)
WHERE tenant_id = ANY ($1::uuid[])
    AND (poll_due_at > $2::timestamptz OR open_due_at > $3::timestamptz OR reconcile_due_at > $4::timestamptz)
