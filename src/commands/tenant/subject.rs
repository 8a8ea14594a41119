//! Shared by the commands on the data of one tenant.

use crate::commands::exit::Failure;
use crate::commands::grant_reader;
use crate::store::Store;
use crate::store::readers::KnownTenant;
use crate::store::tenant_data::purge::RowCounts;

pub(crate) async fn find_tenant(store: &Store, name: &str) -> Result<KnownTenant, Failure> {
    let mut found = grant_reader::find(store, &[name.to_owned()]).await?;
    found.pop().ok_or_else(|| Failure::Configuration(format!("the database has no tenant {name}")))
}

/// The user and host that the audit log records.
pub(crate) fn actor() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    format!("{}@{host}", user.map_or_else(|| nix::unistd::geteuid().to_string(), |user| user.name))
}

/// The number of rows of each table.
pub(crate) fn row_table(counts: &RowCounts) -> String {
    let lines: Vec<String> =
        counts.iter().map(|(table, count)| format!("{count:>10}  {table}")).collect();
    lines.join("\n")
}
