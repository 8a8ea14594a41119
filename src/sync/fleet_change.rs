//! Which tenants come and go with a configuration, and which removals are held back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::entra::Tenant;
use crate::error::{Owner, SyncError};
use crate::store::Store;
use crate::store::tenants::{RemovedTenants, StoredTenant};

/// A configuration may remove this many tenants together without a confirmation.
const REMOVED_FREELY: usize = 3;
/// Or one of this many.
const REMOVED_FRACTION: usize = 10;
/// Names in one line of the log.
const NAMES_IN_LINE: usize = 50;

/// Whether an operator has confirmed a large removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// A start, or a change of `tenants_dir`.
    None,
    /// A request to reload. It confirms the removals that were reported before it.
    Reload,
}

/// The difference between the database and a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FleetChange {
    /// Names of tenants that are new or have come back.
    pub added: Vec<String>,
    /// Earlier and new names.
    pub renamed: Vec<(String, String)>,
    pub removed: Vec<(Uuid, String)>,
    /// Tenants that the configuration does not name and that stay until the removal is confirmed.
    pub held: Vec<(Uuid, String)>,
    /// The tenants before the change.
    pub before: usize,
}

impl FleetChange {
    pub fn of(
        known: &[StoredTenant],
        configured: &[(Uuid, &str)],
        may_leave: RemovedTenants<'_>,
        confirmation: Confirmation,
    ) -> Self {
        let named: HashMap<Uuid, &str> = configured.iter().copied().collect();
        let present: HashMap<Uuid, &str> = known
            .iter()
            .filter(|tenant| !tenant.is_removed)
            .map(|tenant| (tenant.tenant_id, tenant.name.as_str()))
            .collect();
        let added = configured.iter().filter(|(id, _)| !present.contains_key(id));
        let renamed = configured.iter().filter_map(|(id, name)| {
            let before = present.get(id).filter(|before| *before != name)?;
            Some(((*before).to_owned(), (*name).to_owned()))
        });
        let is_leaving = |tenant: &&StoredTenant| {
            let may_leave = match may_leave {
                RemovedTenants::AllOthers => true,
                RemovedTenants::Only(these) => these.contains(&tenant.tenant_id),
            };
            !tenant.is_removed && !named.contains_key(&tenant.tenant_id) && may_leave
        };
        let leaving: Vec<&StoredTenant> = known.iter().filter(is_leaving).collect();
        let is_large =
            leaving.len() > REMOVED_FREELY && leaving.len() * REMOVED_FRACTION > present.len();
        let is_confirmed =
            confirmation == Confirmation::Reload && leaving.iter().all(|tenant| tenant.is_missing);
        // A directory that is empty or not mounted: a routine reload must not confirm that.
        let empties = configured.is_empty() && !leaving.is_empty();
        let is_held = empties || is_large && !is_confirmed;
        let leaving: Vec<(Uuid, String)> =
            leaving.iter().map(|tenant| (tenant.tenant_id, tenant.name.clone())).collect();
        let (held, removed) = if is_held { (leaving, Vec::new()) } else { (Vec::new(), leaving) };
        Self {
            added: added.map(|(_, name)| (*name).to_owned()).collect(),
            renamed: renamed.collect(),
            removed,
            held,
            before: present.len(),
        }
    }

    /// The reason and the next step of a removal that is held back, without the names.
    pub fn describe_held(&self) -> String {
        held_back(self.held.len(), self.before)
    }

    fn held_ids(&self) -> HashSet<Uuid> {
        self.held.iter().map(|(id, _)| *id).collect()
    }

    fn log(&self, reported: &HashSet<Uuid>) {
        let added: Vec<&str> = self.added.iter().map(String::as_str).collect();
        log_names("added", "", &added);
        let removed: Vec<&str> = self.removed.iter().map(|(_, name)| name.as_str()).collect();
        log_removed(&removed);
        for (before, name) in &self.renamed {
            tracing::info!("Tenant renamed: {before} is now {name}");
        }
        if self.held.is_empty() || *reported == self.held_ids() {
            return;
        }
        let owner = Owner::Operator.as_str();
        tracing::error!(owner, tenants = self.held.len(), "{}", self.describe_held());
        let held: Vec<&str> = self.held.iter().map(|(_, name)| name.as_str()).collect();
        for names in held.chunks(NAMES_IN_LINE) {
            tracing::error!(owner, "Missing from the configuration: {}", names.join(", "));
        }
    }
}

/// The message about tenants whose removal is held back.
pub fn held_back(missing: usize, of: usize) -> String {
    let confirm = if missing == of {
        "incident-sync tenant confirm-removal"
    } else {
        "systemctl reload incident-sync or incident-sync tenant confirm-removal"
    };
    format!(
        "The configuration no longer names {missing} of {of} tenants; their removal is held back. Check that tenants_dir is mounted and \
         complete. To remove them, run: {confirm}"
    )
}

/// Logs the names of tenants that are no longer synced.
pub fn log_removed(names: &[&str]) {
    log_names("removed", "; the data stays until incident-sync tenant purge", names);
}

fn log_names(what: &str, more: &str, names: &[&str]) {
    for names in names.chunks(NAMES_IN_LINE) {
        tracing::info!(tenants = names.len(), "Tenants {what}: {}{more}", names.join(", "));
    }
}

/// Writes the configured tenants to the database, logs who comes and goes, and holds back a large removal. `reported` has the
/// tenants whose removal was held back before.
pub async fn store_tenants(
    store: &Store,
    configured: &[Arc<Tenant>],
    may_leave: RemovedTenants<'_>,
    confirmation: Confirmation,
    reported: &HashSet<Uuid>,
) -> Result<FleetChange, SyncError> {
    let known = store.known_tenants().await?;
    let named: Vec<(Uuid, &str)> =
        configured.iter().map(|tenant| (tenant.id.0, tenant.name.as_str())).collect();
    let change = FleetChange::of(&known, &named, may_leave, confirmation);
    let removed: Vec<Uuid> = change.removed.iter().map(|(id, _)| *id).collect();
    store.sync_tenants(configured, RemovedTenants::Only(&removed)).await?;
    let held: Vec<Uuid> = change.held.iter().map(|(id, _)| *id).collect();
    if !held.is_empty() {
        store.mark_missing(&held).await?;
    }
    change.log(reported);
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tenants with these numbers; `missing` are reported already.
    fn known(numbers: std::ops::RangeInclusive<u128>, missing: u128) -> Vec<StoredTenant> {
        let tenant = |number| StoredTenant {
            tenant_id: Uuid::from_u128(number),
            name: format!("t{number}"),
            is_removed: false,
            is_missing: number <= missing,
        };
        numbers.map(tenant).collect()
    }

    /// How many of 40 tenants are removed and held back if the first ones leave.
    fn leaving(count: u128, missing: u128, confirmation: Confirmation) -> (usize, usize) {
        let known = known(1..=40, missing);
        let named: Vec<(Uuid, &str)> =
            known.iter().skip(count as usize).map(|t| (t.tenant_id, t.name.as_str())).collect();
        let change = FleetChange::of(&known, &named, RemovedTenants::AllOthers, confirmation);
        (change.removed.len(), change.held.len())
    }

    #[test]
    fn large_removal_needs_confirmation() {
        assert_eq!(leaving(4, 0, Confirmation::None), (4, 0), "a tenth");
        assert_eq!(leaving(5, 0, Confirmation::None), (0, 5));
        assert_eq!(leaving(5, 0, Confirmation::Reload), (0, 5), "not reported yet");
        assert_eq!(leaving(5, 4, Confirmation::Reload), (0, 5), "one more than was reported");
        assert_eq!(leaving(5, 5, Confirmation::Reload), (5, 0));
        assert_eq!(leaving(5, 5, Confirmation::None), (0, 5));
    }

    #[test]
    fn empty_configuration_never_removes_tenants() {
        for confirmation in [Confirmation::None, Confirmation::Reload] {
            assert_eq!(leaving(40, 40, confirmation), (0, 40));
            let one = known(1..=1, 1);
            let change = FleetChange::of(&one, &[], RemovedTenants::AllOthers, confirmation);
            assert_eq!((change.removed.len(), change.held.len()), (0, 1));
        }
    }

    #[test]
    fn small_fleet_may_lose_three_tenants() {
        let known = known(1..=4, 0);
        let named = [(Uuid::from_u128(4), "four"), (Uuid::from_u128(9), "new")];
        let change = FleetChange::of(&known, &named, RemovedTenants::AllOthers, Confirmation::None);
        assert_eq!((change.removed.len(), change.held.len()), (3, 0));
        assert_eq!(change.added, ["new"]);
        assert_eq!(change.renamed, [("t4".to_owned(), "four".to_owned())]);
    }

    #[test]
    fn tenant_of_unreadable_file_stays() {
        let known = known(1..=2, 0);
        let only = [Uuid::from_u128(1)];
        let named = [(Uuid::from_u128(9), "new")];
        let change =
            FleetChange::of(&known, &named, RemovedTenants::Only(&only), Confirmation::None);
        assert_eq!(
            change.removed.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(),
            ["t1"]
        );
    }
}
