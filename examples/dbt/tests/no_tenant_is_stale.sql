-- Fails with a row for each tenant whose data is too old, and who must act. `dbt build --store-failures` keeps the rows.
select tenant_name, data_as_of, error_class, who_must_act
from {{ source('reporting', 'tenant_freshness') }}
where enabled
    and coalesce(last_success_at, '-infinity') < now() - interval '{{ var("stale_after_hours") }} hours'
