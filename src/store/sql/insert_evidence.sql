-- insert_evidence
-- For alerts that were not stored before: they have no evidence, and a plain insert takes two thirds of the time.
INSERT INTO defender.evidence (tenant_id, alert_id, evidence_hash, entity_type, evidence_creation_time, verdict, remediation_status, sha1, sha256,
    file_name, file_path, process_id, process_command_line, process_creation_time, parent_process_id,
    parent_process_creation_time, ip_address, url, account_name, domain_name, user_sid, aad_user_id,
    user_principal_name, mailbox_display_name, mailbox_address, cluster_by, cluster_by_value, email_count,
    sender, recipient, subject, internet_message_id, delivery_action, security_group_id, security_group_name,
    registry_hive, registry_key, registry_value_type, registry_value, device_id, roles,
    extra)
SELECT $1, u.alert_id, u.evidence_hash, u.entity_type, u.evidence_creation_time, u.verdict, u.remediation_status, u.sha1,
    u.sha256, u.file_name, u.file_path, u.process_id, u.process_command_line, u.process_creation_time,
    u.parent_process_id, u.parent_process_creation_time, u.ip_address, u.url, u.account_name, u.domain_name,
    u.user_sid, u.aad_user_id, u.user_principal_name, u.mailbox_display_name, u.mailbox_address, u.cluster_by,
    u.cluster_by_value, u.email_count, u.sender, u.recipient, u.subject, u.internet_message_id,
    u.delivery_action, u.security_group_id, u.security_group_name, u.registry_hive, u.registry_key,
    u.registry_value_type, u.registry_value, u.device_id, u.roles::text[], u.extra::jsonb
FROM unnest($2::defender.evidence_record_2[]) AS u
