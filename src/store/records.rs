//! Rows of the two widest tables as composite values: one array of records instead of one array for each column.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use crate::incident::rows::{AlertRow, EvidenceRow};

/// Postgres's text form of a `text[]`: arrays of arrays cannot be unnested by row.
pub(super) fn array_literal(values: &[Cow<'_, str>]) -> String {
    let mut literal = String::from("{");
    for (at, value) in values.iter().enumerate() {
        literal.push_str(if at == 0 { "\"" } else { ",\"" });
        for character in value.chars() {
            if matches!(character, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(character);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

/// JSON as the text that it came in: the server parses it once, where a cast from `text` would copy it twice more.
pub(super) struct JsonText<'a>(pub(super) &'a str);

/// Fixed in `pg_type.dat`.
const JSONB: PgTypeInfo = PgTypeInfo::with_oid(Oid(3802));
const JSONB_ARRAY: PgTypeInfo = PgTypeInfo::with_oid(Oid(3807));
/// The only version of the binary form: a 1 and the text.
const JSONB_VERSION: u8 = 1;

impl Type<Postgres> for JsonText<'_> {
    fn type_info() -> PgTypeInfo {
        JSONB
    }
}

impl PgHasArrayType for JsonText<'_> {
    fn array_type_info() -> PgTypeInfo {
        JSONB_ARRAY
    }
}

impl Encode<'_, Postgres> for JsonText<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.push(JSONB_VERSION);
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

/// `defender.alert_record`: fields in the order of the type.
#[derive(sqlx::Encode)]
pub(super) struct AlertRecord<'a> {
    alert_id: &'a str,
    incident_id: i64,
    provider_alert_id: Option<&'a str>,
    service_source: Option<&'a str>,
    detection_source: Option<&'a str>,
    detector_id: Option<&'a str>,
    creation_time: Option<DateTime<Utc>>,
    last_updated_time: Option<DateTime<Utc>>,
    resolved_time: Option<DateTime<Utc>>,
    first_activity: Option<DateTime<Utc>>,
    last_activity: Option<DateTime<Utc>>,
    title: Option<&'a str>,
    description: Option<&'a str>,
    category: Option<&'a str>,
    status: Option<&'a str>,
    severity: Option<&'a str>,
    investigation_id: Option<i64>,
    investigation_state: Option<&'a str>,
    classification: Option<&'a str>,
    determination: Option<&'a str>,
    assigned_to: Option<&'a str>,
    actor_name: Option<&'a str>,
    threat_family_name: Option<&'a str>,
    mitre_techniques: Option<String>,
    last_seen: DateTime<Utc>,
}

/// `defender.evidence_record`: fields in the order of the type.
#[derive(sqlx::Encode)]
pub(super) struct EvidenceRecord<'a> {
    alert_id: &'a str,
    evidence_hash: &'a [u8],
    entity_type: Option<&'a str>,
    evidence_creation_time: Option<DateTime<Utc>>,
    verdict: Option<&'a str>,
    remediation_status: Option<&'a str>,
    sha1: Option<&'a str>,
    sha256: Option<&'a str>,
    file_name: Option<&'a str>,
    file_path: Option<&'a str>,
    process_id: Option<i64>,
    process_command_line: Option<&'a str>,
    process_creation_time: Option<DateTime<Utc>>,
    parent_process_id: Option<i64>,
    parent_process_creation_time: Option<DateTime<Utc>>,
    ip_address: Option<&'a str>,
    url: Option<&'a str>,
    account_name: Option<&'a str>,
    domain_name: Option<&'a str>,
    user_sid: Option<&'a str>,
    aad_user_id: Option<&'a str>,
    user_principal_name: Option<&'a str>,
    mailbox_display_name: Option<&'a str>,
    mailbox_address: Option<&'a str>,
    cluster_by: Option<&'a str>,
    cluster_by_value: Option<&'a str>,
    email_count: Option<i64>,
    sender: Option<&'a str>,
    recipient: Option<&'a str>,
    subject: Option<&'a str>,
    internet_message_id: Option<&'a str>,
    delivery_action: Option<&'a str>,
    security_group_id: Option<&'a str>,
    security_group_name: Option<&'a str>,
    registry_hive: Option<&'a str>,
    registry_key: Option<&'a str>,
    registry_value_type: Option<&'a str>,
    registry_value: Option<&'a str>,
    device_id: Option<&'a str>,
    extra: Option<&'a str>,
}

macro_rules! composite {
    ($record:ident, $name:literal) => {
        impl Type<Postgres> for $record<'_> {
            fn type_info() -> PgTypeInfo {
                PgTypeInfo::with_name($name)
            }
        }

        impl PgHasArrayType for $record<'_> {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::array_of($name)
            }
        }
    };
}
composite!(AlertRecord, "defender.alert_record");
composite!(EvidenceRecord, "defender.evidence_record");

impl<'a> From<&'a AlertRow<'_>> for AlertRecord<'a> {
    fn from(row: &'a AlertRow<'_>) -> Self {
        let AlertRow { alert_id, incident_id, last_seen, alert } = row;
        Self {
            alert_id,
            incident_id: *incident_id,
            provider_alert_id: alert.provider_alert_id.as_deref(),
            service_source: alert.service_source.as_deref(),
            detection_source: alert.detection_source.as_deref(),
            detector_id: alert.detector_id.as_deref(),
            creation_time: alert.creation_time,
            last_updated_time: alert.last_updated_time,
            resolved_time: alert.resolved_time,
            first_activity: alert.first_activity,
            last_activity: alert.last_activity,
            title: alert.title.as_deref(),
            description: alert.description.as_deref(),
            category: alert.category.as_deref(),
            status: alert.status.as_deref(),
            severity: alert.severity.as_deref(),
            investigation_id: alert.investigation_id,
            investigation_state: alert.investigation_state.as_deref(),
            classification: alert.classification.as_deref(),
            determination: alert.determination.as_deref(),
            assigned_to: alert.assigned_to.as_deref(),
            actor_name: alert.actor_name.as_deref(),
            threat_family_name: alert.threat_family_name.as_deref(),
            mitre_techniques: alert.mitre_techniques.as_deref().map(array_literal),
            last_seen: *last_seen,
        }
    }
}

impl<'a> From<&'a EvidenceRow<'_>> for EvidenceRecord<'a> {
    fn from(row: &'a EvidenceRow<'_>) -> Self {
        let EvidenceRow { alert_id, evidence_hash, entity, extra } = row;
        Self {
            alert_id,
            evidence_hash,
            entity_type: entity.entity_type.as_deref(),
            evidence_creation_time: entity.evidence_creation_time,
            verdict: entity.verdict.as_deref(),
            remediation_status: entity.remediation_status.as_deref(),
            sha1: entity.sha1.as_deref(),
            sha256: entity.sha256.as_deref(),
            file_name: entity.file_name.as_deref(),
            file_path: entity.file_path.as_deref(),
            process_id: entity.process_id,
            process_command_line: entity.process_command_line.as_deref(),
            process_creation_time: entity.process_creation_time,
            parent_process_id: entity.parent_process_id,
            parent_process_creation_time: entity.parent_process_creation_time,
            ip_address: entity.ip_address.as_deref(),
            url: entity.url.as_deref(),
            account_name: entity.account_name.as_deref(),
            domain_name: entity.domain_name.as_deref(),
            user_sid: entity.user_sid.as_deref(),
            aad_user_id: entity.aad_user_id.as_deref(),
            user_principal_name: entity.user_principal_name.as_deref(),
            mailbox_display_name: entity.mailbox_display_name.as_deref(),
            mailbox_address: entity.mailbox_address.as_deref(),
            cluster_by: entity.cluster_by.as_deref(),
            cluster_by_value: entity.cluster_by_value.as_deref(),
            email_count: entity.email_count,
            sender: entity.sender.as_deref(),
            recipient: entity.recipient.as_deref(),
            subject: entity.subject.as_deref(),
            internet_message_id: entity.internet_message_id.as_deref(),
            delivery_action: entity.delivery_action.as_deref(),
            security_group_id: entity.security_group_id.as_deref(),
            security_group_name: entity.security_group_name.as_deref(),
            registry_hive: entity.registry_hive.as_deref(),
            registry_key: entity.registry_key.as_deref(),
            registry_value_type: entity.registry_value_type.as_deref(),
            registry_value: entity.registry_value.as_deref(),
            device_id: entity.device_id.as_deref(),
            extra: extra.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_literal_escapes_quotes_and_backslashes() {
        let values = [
            Cow::Borrowed("a\"b"),
            Cow::Borrowed("c\\d"),
            Cow::Borrowed("NULL, {e}"),
            Cow::Borrowed(""),
        ];
        assert_eq!(array_literal(&values), r#"{"a\"b","c\\d","NULL, {e}",""}"#);
        assert_eq!(array_literal(&[]), "{}");
    }
}
