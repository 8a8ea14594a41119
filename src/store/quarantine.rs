//! The quarantine: incidents that could not be decoded or stored, with their raw text.

use std::borrow::Cow;

use sqlx::PgConnection;

use super::lease::Durability;
use super::{DbRole, Lease, Store};
use crate::error::SyncError;
use crate::incident::decode::key;
use crate::incident::hash::Hash;
use crate::incident::raw::RawIncident;
use crate::incident::rows::PageRows;
use crate::tenant::{Source, TenantId};

impl Store {
    /// At most `limit` elements of the quarantine from this source after the given one, each with its id there.
    pub async fn rejected(
        &self,
        lease: &Lease,
        source: Source,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(i64, RawIncident<'static>)>, SyncError> {
        let role = DbRole::Writer(lease.tenant);
        let rows: Vec<(i64, String, Vec<u8>)> = self
            .statement("reading the quarantine", role, include_str!("sql/rejected_payloads.sql"))
            .bind(lease.tenant.0)
            .bind(after)
            .bind(limit)
            .bind(source.as_str())
            .fetch_all()
            .await?;
        let element = |(id, text, hash): (i64, String, Vec<u8>)| {
            let incident = RawIncident {
                head: key::head(source, &text),
                hash: hash.try_into().ok()?,
                text: Cow::Owned(text),
            };
            Some((id, incident))
        };
        Ok(rows.into_iter().filter_map(element).collect())
    }

    /// Ids and hashes of those elements that are in quarantine.
    pub async fn quarantined(
        &self,
        tenant: TenantId,
        elements: &[&RawIncident<'_>],
    ) -> Result<Vec<(Option<i64>, Vec<u8>)>, SyncError> {
        let ids: Vec<i64> =
            elements.iter().filter_map(|element| element.head.incident_id).collect();
        let hashes: Vec<Hash> = elements.iter().map(|element| element.hash).collect();
        let quarantined = include_str!("sql/quarantined.sql");
        self.statement("looking up the quarantine", DbRole::Reader, quarantined)
            .bind(tenant.0)
            .bind(ids)
            .bind(hashes)
            .fetch_all()
            .await
    }

    /// Deletes elements of the quarantine that are stored in this version or a later one.
    pub async fn delete_obsolete(&self, lease: &Lease, hashes: &[Hash]) -> Result<(), SyncError> {
        let delete = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/delete_obsolete.sql"))
                .bind(lease.tenant.0)
                .bind(hashes)
                .execute(connection)
                .await
        };
        let step = "deleting obsolete elements of the quarantine";
        self.transact_leased(step, lease, Durability::Immediate, delete).await.map(drop)
    }

    /// Removes from `rows` what is in quarantine already.
    pub async fn drop_known_rejects(
        &self,
        lease: &Lease,
        rows: &mut PageRows<'_>,
    ) -> Result<(), SyncError> {
        if rows.rejected.is_empty() {
            return Ok(());
        }
        let hashes: Vec<Hash> = rows.rejected.iter().map(|row| row.content_hash).collect();
        let role = DbRole::Writer(lease.tenant);
        let known: Vec<Vec<u8>> = self
            .statement("looking up the quarantine", role, include_str!("sql/known_rejected.sql"))
            .bind(lease.tenant.0)
            .bind(hashes)
            .fetch_scalars()
            .await?;
        rows.rejected.retain(|row| !known.iter().any(|hash| hash == &row.content_hash));
        Ok(())
    }
}
