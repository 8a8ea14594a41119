//! Which incident versions of a page are stored already: unchanged ones are not written.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{DbRole, Store};
use crate::error::SyncError;
use crate::incident::raw::RawIncident;
use crate::tenant::TenantId;

/// The stored versions of some incidents.
#[derive(Debug)]
pub struct KnownVersions(HashMap<i64, (DateTime<Utc>, Vec<u8>)>);

impl KnownVersions {
    /// The elements that are newer than the stored version, or have the same version with other content: an alert may change
    /// without its incident.
    pub fn without_known<'a>(&self, mut elements: Vec<RawIncident<'a>>) -> Vec<RawIncident<'a>> {
        elements.retain(|element| {
            let stored = element.head.incident_id.and_then(|id| self.0.get(&id));
            stored.is_none_or(|(time, hash)| match element.head.last_update_time {
                Some(served) => served > *time || served == *time && hash != &element.hash,
                None => hash != &element.hash,
            })
        });
        elements
    }

    /// The stored version of an incident.
    pub fn version(&self, incident_id: i64) -> Option<DateTime<Utc>> {
        self.0.get(&incident_id).map(|(time, _)| *time)
    }

    /// Whether the element is an incident version later than the stored one.
    pub fn is_news(&self, element: &RawIncident<'_>) -> bool {
        let stored = element.head.incident_id.and_then(|id| self.version(id));
        stored.is_none_or(|stored| {
            element.head.last_update_time.is_some_and(|served| stored < served)
        })
    }
}

impl Store {
    /// Which versions of these incidents are stored.
    pub async fn known_versions(
        &self,
        tenant: TenantId,
        elements: &[RawIncident<'_>],
    ) -> Result<KnownVersions, SyncError> {
        let ids: Vec<i64> =
            elements.iter().filter_map(|element| element.head.incident_id).collect();
        self.versions_of(tenant, &ids).await
    }

    /// The stored versions of the incidents with these ids.
    pub async fn versions_of(
        &self,
        tenant: TenantId,
        ids: &[i64],
    ) -> Result<KnownVersions, SyncError> {
        if ids.is_empty() {
            return Ok(KnownVersions(HashMap::new()));
        }
        let known_versions = include_str!("sql/known_versions.sql");
        let known: Vec<(i64, DateTime<Utc>, Vec<u8>)> = self
            .statement("looking up stored versions", DbRole::Writer(tenant), known_versions)
            .bind(tenant.0)
            .bind(ids)
            .fetch_all()
            .await?;
        Ok(KnownVersions(known.into_iter().map(|(id, time, hash)| (id, (time, hash))).collect()))
    }
}
