//! The example queries of `demo`.

use std::time::Duration;

use sqlx::PgPool;

use crate::commands::exit::Failure;
use crate::commands::output;

pub(super) const QUERIES: [(&str, &str); 3] = [
    (
        "Open incidents by tenant and severity",
        "SELECT tenant_name AS tenant, severity, count(*)::text AS open
FROM reporting.open_incidents GROUP BY 1, 2 ORDER BY count(*) DESC, 1 LIMIT 8",
    ),
    (
        "Devices with the most alerts of open incidents",
        "SELECT tenant_name AS tenant, device_dns_name AS device, risk_score AS risk, alert_count::text AS alerts
FROM reporting.devices_at_risk ORDER BY alert_count DESC, 1, 2 LIMIT 5",
    ),
    (
        "How current each tenant is, and who must act",
        "SELECT tenant_name AS tenant, coalesce(date_trunc('second', now() - last_success_at)::text, 'never') AS age,
    coalesce(error_class, 'ok') AS state, coalesce(who_must_act, '') AS who_must_act
FROM reporting.tenant_freshness ORDER BY error_class NULLS LAST, 1 LIMIT 6",
    ),
];

/// Runs a query whose columns are all text.
pub(super) async fn answer(pool: &PgPool, sql: &'static str) -> Result<String, Failure> {
    use sqlx::{Column, Row};
    let rows = sqlx::query(sql).fetch_all(pool).await;
    let rows = rows.map_err(|error| Failure::Database(format!("the query failed: {error}")))?;
    let columns = rows.first().map_or(&[][..], |first| first.columns());
    let mut table = output::table(columns.iter().map(|column| column.name()));
    for row in &rows {
        let cell =
            |at: usize| row.try_get::<Option<String>, _>(at).ok().flatten().unwrap_or_default();
        table.add_row((0..row.len()).map(cell));
    }
    Ok(table.to_string())
}

/// Prints a line when the number of rows has changed.
pub(super) async fn print_totals(pool: PgPool) {
    const TOTALS: &str =
        "SELECT (SELECT count(*) FROM defender.incidents), (SELECT count(*) FROM defender.alerts),
        (SELECT count(*) FROM defender.evidence), (SELECT count(*) FROM defender.incident_changes)";
    let mut last = (0, 0, 0, 0);
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        let Ok(now) = sqlx::query_as::<_, (i64, i64, i64, i64)>(TOTALS).fetch_one(&pool).await
        else {
            continue;
        };
        if now != last {
            let printed = output::print_line(format_args!(
                "{} incidents (+{}), {} alerts, {} evidence rows, {} observed changes",
                now.0,
                now.0 - last.0,
                now.1,
                now.2,
                now.3
            ));
            // The demonstration continues without a reader of its output.
            let _ = printed;
            last = now;
        }
    }
}
