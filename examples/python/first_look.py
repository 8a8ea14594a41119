# %% [markdown]
# A first look at the data of incident-sync. Runs as a script, or cell by cell in an editor that supports `# %%`. The connection
# comes from libpq's variables: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE. Pictures and the position go to OUTPUT.

# %%
import json
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from sqlalchemy import create_engine, text

output = Path(os.environ.get("OUTPUT", "."))
# An empty address makes libpq read its variables.
engine = create_engine("postgresql+psycopg://")
SEVERITIES = ["High", "Medium", "Low", "Informational", "UnSpecified"]
COLOURS = dict(zip(SEVERITIES, ["#b2182b", "#ef8a62", "#fddb8c", "#92c5de", "#bbbbbb"]))


def ask(question, **values):
    with engine.connect() as connection:
        return pd.read_sql(text(question), connection, params=values)


# %% [markdown]
# The age of the data comes first: do not compare tenants with old data or failures with the rest.

# %%
freshness = ask(
    "SELECT tenant_name, data_as_of, lag_seconds, history_complete, error_class, who_must_act"
    " FROM reporting.tenant_freshness ORDER BY lag_seconds DESC NULLS FIRST"
)
print(freshness.to_string(index=False))

# %% [markdown]
# Open incidents by tenant and severity.

# %%
counts = ask("SELECT tenant_name, severity, count(*) AS open FROM reporting.open_incidents GROUP BY 1, 2")
table = counts.pivot(index="tenant_name", columns="severity", values="open").fillna(0)
table = table.reindex(columns=[severity for severity in SEVERITIES if severity in table])
table = table.loc[table.sum(axis=1).sort_values().index]
axes = table.plot.barh(stacked=True, color=COLOURS, figsize=(9, 0.3 * len(table) + 1.5), width=0.8)
axes.set(title="Open incidents", xlabel="incidents", ylabel="")
axes.legend(title="", loc="lower right")
plt.tight_layout()
plt.savefig(output / "open_incidents.png", dpi=120)

# %% [markdown]
# The backlog at the end of each of the last 90 days (UTC), of all tenants together.

# %%
trend = ask(
    "SELECT day, severity, sum(backlog)::bigint AS backlog FROM reporting.incident_trend_daily"
    " WHERE day > (now() AT TIME ZONE 'UTC')::date - 90 GROUP BY 1, 2"
)
trend["day"] = pd.to_datetime(trend["day"])
table = trend.pivot(index="day", columns="severity", values="backlog").fillna(0)
table = table.reindex(columns=[severity for severity in SEVERITIES if severity in table])
axes = table.plot.area(color=COLOURS, figsize=(9, 4.5), linewidth=0)
axes.set(title="Backlog", xlabel="", ylabel="incidents open at the end of the day")
axes.legend(title="", loc="upper left", bbox_to_anchor=(1, 1))
plt.tight_layout()
plt.savefig(output / "backlog.png", dpi=120)

# %% [markdown]
# The feed of changes in steps. A small file stores the position up to which it was read. A run that ends between the work and
# the file repeats one step, so the work must be repeatable (here: it only counts).

# %%
position_file = output / "position.json"
position = json.loads(position_file.read_text())["change_id"] if position_file.exists() else 0
read = 0
while True:
    changes = ask(
        "SELECT change_id, tenant_name, incident_id, field, old_value, new_value, observed_at"
        " FROM reporting.incident_changes WHERE change_id > :position ORDER BY change_id LIMIT :step",
        position=position,
        step=25,
    )
    if changes.empty:
        break
    read += len(changes)
    position = int(changes["change_id"].iloc[-1])
    # Renamed into place: a crash leaves the old position or the new one, never an incomplete one.
    temporary = position_file.with_suffix(".new")
    temporary.write_text(json.dumps({"change_id": position}))
    temporary.replace(position_file)
print(f"changes read: {read}, position: {position}")
