//! Names and ids of tenants, each used once.

use std::collections::HashMap;

use crate::config::errors::ConfigError;
use crate::config::section::{Parsed, Report, Section, parse_guid};
use crate::error::is_invisible;
use crate::tenant::TenantId;

/// The ids and names so far, with their locations.
#[derive(Default)]
pub(super) struct UsedNames {
    ids: HashMap<TenantId, TenantLocation>,
    names: HashMap<String, TenantLocation>,
}

/// Where a tenant is configured.
#[derive(Clone)]
struct TenantLocation {
    /// The place in messages, such as `tenants[3] (Contoso)`.
    label: String,
    own_file: Option<String>,
}

impl TenantLocation {
    fn of(section: &Section) -> Self {
        Self { label: section.location(), own_file: section.own_file().map(str::to_owned) }
    }
}

/// Rejects both of two files with the same id or name, because the order of files does not show which one is right. The main
/// file has precedence.
fn reject_both(
    section: &mut Section,
    key: &str,
    other: &TenantLocation,
    problem: impl Fn(&str) -> String,
    report: &mut Report,
) {
    let here = TenantLocation::of(section);
    section.error(key, problem(&other.label));
    if let (Some(_), Some(file)) = (here.own_file, &other.own_file) {
        report.error(ConfigError {
            file: file.clone(),
            key: key.to_owned(),
            problem: problem(&here.label),
        });
    }
}

/// Whether a name has no invisible characters. Two joiners are accepted: the spelling of some languages needs them.
pub(crate) fn is_printable_name(name: &str) -> bool {
    const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];
    name.chars().all(|c| JOINERS.contains(&c) || !is_invisible(c))
}

pub(super) fn read_name(
    section: &mut Section,
    used: &mut UsedNames,
    report: &mut Report,
) -> Option<String> {
    let name = section.parsed("name", |name| match name.trim() {
        "" => Err("is empty; set the name that reports and metrics show".to_owned()),
        name if !is_printable_name(name) => {
            Err("contains control or invisible characters; remove them".to_owned())
        }
        name => Ok(name.to_owned()),
    });
    let name = match name {
        Parsed::Is(name) => name,
        Parsed::Wrong => return None,
        Parsed::Absent => {
            section.error("name", "missing; set the name that reports and metrics show");
            return None;
        }
    };
    section.name_tenant(&name);
    if let Some(other) = used.names.insert(name.clone(), TenantLocation::of(section)) {
        let problem = |other: &str| {
            format!("the same name as {other}; metrics identify tenants by name, so choose another")
        };
        reject_both(section, "name", &other, problem, report);
    }
    Some(name)
}

pub(super) fn read_id(
    section: &mut Section,
    used: &mut UsedNames,
    report: &mut Report,
) -> Option<TenantId> {
    let cure = "set the customer's directory (tenant) id from Entra's overview page";
    let id = match section.parsed("id", |id| parse_guid(id).ok_or(format!("not a GUID; {cure}"))) {
        Parsed::Is(id) => TenantId(id),
        Parsed::Wrong => return None,
        Parsed::Absent => {
            section.error("id", format!("missing; {cure}"));
            return None;
        }
    };
    if let Some(other) = used.ids.insert(id, TenantLocation::of(section)) {
        let problem =
            |other: &str| format!("the same tenant as {other} ({id}); remove one of the two");
        reject_both(section, "id", &other, problem, report);
    }
    Some(id)
}
