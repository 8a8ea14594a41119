{{ config(materialized='incremental', incremental_strategy='append') }}
-- Nothing comes into the feed below a position that was read, so that the greatest change_id is all there is to remember.
select
    change_id,
    tenant_id,
    tenant_name,
    incident_id,
    field,
    old_value,
    new_value,
    changed_at,
    observed_at
from {{ source('reporting', 'incident_changes') }}
{% if is_incremental() %}
where change_id > (select coalesce(max(change_id), 0) from {{ this }})
{% endif %}
