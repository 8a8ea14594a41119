{{ config(materialized='table') }}
-- Merged incidents must not be counted. An incident that was resolved before it was first seen has no exact time: it counts
-- as resolved, and in no share.
with resolved as (
    select
        tenant_id,
        tenant_name,
        date_trunc('week', resolved_at at time zone 'UTC')::date as week,
        time_to_resolve_seconds,
        3600 * case severity
            {%- for severity, hours in var('target_hours').items() %}
            when '{{ severity }}' then {{ hours }}
            {%- endfor %}
        end as target_seconds
    from {{ source('reporting', 'incidents') }}
    where not is_merged and resolved_at is not null
)

select
    tenant_id || ' ' || week as row_id,
    tenant_id,
    tenant_name,
    week,
    count(*) as resolved,
    count(time_to_resolve_seconds) as resolved_with_exact_time,
    avg((time_to_resolve_seconds <= target_seconds)::integer) as share_within_target
from resolved
group by tenant_id, tenant_name, week
