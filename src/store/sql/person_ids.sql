-- person_ids
SELECT DISTINCT user_sid AS sid, aad_user_id AS object_id, account_name AS account, domain_name AS domain,
    coalesce(mailbox_display_name, extra #>> '{userAccount,displayName}') AS display_name
FROM defender.evidence
WHERE tenant_id = $1 AND lower(user_principal_name) = lower($2)
