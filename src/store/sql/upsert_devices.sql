-- upsert_devices
-- Graph has no os_processor: it keeps its value.
INSERT INTO defender.devices AS d (tenant_id, device_id, aad_device_id, device_dns_name, os_platform, version, os_processor, os_build, health_status,
    risk_score, rbac_group_id, rbac_group_name, first_seen, tags, defender_av_status, onboarding_status,
    vm_metadata, last_seen)
SELECT $1, u.device_id, u.aad_device_id, u.device_dns_name, u.os_platform, u.version, u.os_processor, u.os_build,
    u.health_status, u.risk_score, u.rbac_group_id, u.rbac_group_name, u.first_seen, u.tags::text[],
    u.defender_av_status, u.onboarding_status, u.vm_metadata::jsonb, u.last_seen
FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[],
            $10::text[], $11::text[], $12::bigint[], $13::text[], $14::timestamptz[], $15::text[],
            $16::text[], $17::text[], $18::text[])
    AS u(device_id, last_seen, aad_device_id, device_dns_name, os_platform, version, os_processor, os_build, health_status,
         risk_score, rbac_group_id, rbac_group_name, first_seen, tags, defender_av_status,
         onboarding_status, vm_metadata)
ON CONFLICT (tenant_id, device_id) DO UPDATE SET
    aad_device_id = excluded.aad_device_id,
    device_dns_name = excluded.device_dns_name,
    os_platform = excluded.os_platform,
    version = excluded.version,
    os_processor = CASE WHEN $19 = 'graph' THEN d.os_processor ELSE excluded.os_processor END,
    os_build = excluded.os_build,
    health_status = excluded.health_status,
    risk_score = excluded.risk_score,
    rbac_group_id = excluded.rbac_group_id,
    rbac_group_name = excluded.rbac_group_name,
    first_seen = excluded.first_seen,
    tags = excluded.tags,
    defender_av_status = excluded.defender_av_status,
    onboarding_status = excluded.onboarding_status,
    vm_metadata = excluded.vm_metadata,
    last_seen = excluded.last_seen,
    changed_at = now()
WHERE d.last_seen <= excluded.last_seen
    AND (d.aad_device_id, d.device_dns_name, d.os_platform, d.version, d.os_processor, d.os_build, d.health_status,
        d.risk_score, d.rbac_group_id, d.rbac_group_name, d.first_seen, d.tags, d.defender_av_status,
        d.onboarding_status, d.vm_metadata)
    IS DISTINCT FROM (excluded.aad_device_id, excluded.device_dns_name, excluded.os_platform, excluded.version,
        CASE WHEN $19 = 'graph' THEN d.os_processor ELSE excluded.os_processor END, excluded.os_build,
        excluded.health_status, excluded.risk_score, excluded.rbac_group_id, excluded.rbac_group_name, excluded.first_seen, excluded.tags,
        excluded.defender_av_status, excluded.onboarding_status, excluded.vm_metadata)
