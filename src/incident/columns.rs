//! The columns of each table that a source fills, defined once. Their names, types and order in statements and in hashes
//! follow from here.
//!
//! A new column comes last: here, in a new composite type and in its statement of `store/sql/`; then its key in the decoder
//! of each source. If it is part of `evidence`, it must not go into the stored hash ([`crate::incident::hash`]).

use std::borrow::Cow;

use chrono::{DateTime, Utc};

/// Text as served.
pub type Text<'a> = Cow<'a, str>;
/// A list of texts, as served.
pub type Texts<'a> = Vec<Cow<'a, str>>;
/// A time in the precision of Postgres.
pub type Time = DateTime<Utc>;

/// A column's value, of whichever type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'v> {
    /// A `text`.
    Text(Option<&'v str>),
    /// A `text[]`.
    Texts(Option<&'v [Cow<'v, str>]>),
    Number(Option<i64>),
    /// A `timestamptz`.
    Time(Option<Time>),
}

/// Each is `None` for a value of another type as well.
impl<'v> Value<'v> {
    pub fn text(self) -> Option<&'v str> {
        if let Self::Text(text) = self { text } else { None }
    }

    pub fn texts(self) -> Option<&'v [Cow<'v, str>]> {
        if let Self::Texts(texts) = self { texts } else { None }
    }

    pub fn number(self) -> Option<i64> {
        if let Self::Number(number) = self { number } else { None }
    }

    pub fn time(self) -> Option<Time> {
        if let Self::Time(time) = self { time } else { None }
    }
}

impl<'v> From<&'v Option<Text<'_>>> for Value<'v> {
    fn from(text: &'v Option<Text<'_>>) -> Self {
        Self::Text(text.as_deref())
    }
}

impl<'v> From<&'v Option<Texts<'_>>> for Value<'v> {
    fn from(texts: &'v Option<Texts<'_>>) -> Self {
        Self::Texts(texts.as_deref())
    }
}

impl From<&Option<i64>> for Value<'_> {
    fn from(number: &Option<i64>) -> Self {
        Self::Number(*number)
    }
}

impl From<&Option<Time>> for Value<'_> {
    fn from(time: &Option<Time>) -> Self {
        Self::Time(*time)
    }
}

/// The columns of one table.
pub trait Columns: Default {
    /// As the database calls them, in order.
    const NAMES: &'static [&'static str];

    /// Their values, in the same order. What is `None` still has its type.
    fn values(&self) -> impl Iterator<Item = Value<'_>>;
}

macro_rules! columns {
    ($(#[$about:meta])* $name:ident { $($column:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $name<'a> {
            $(pub $column: Option<$kind>,)*
        }

        impl Columns for $name<'_> {
            const NAMES: &'static [&'static str] = &[$(stringify!($column)),*];

            fn values(&self) -> impl Iterator<Item = Value<'_>> {
                [$(Value::from(&self.$column)),*].into_iter()
            }
        }
    };
}

columns! {
    /// `incidents`.
    IncidentColumns {
        incident_uri: Text<'a>,
        redirect_incident_id: i64,
        incident_name: Text<'a>,
        created_time: Time,
        assigned_to: Text<'a>,
        classification: Text<'a>,
        determination: Text<'a>,
        status: Text<'a>,
        severity: Text<'a>,
        detection_source: Text<'a>,
        tags: Texts<'a>,
        description: Text<'a>,
        summary: Text<'a>,
        resolving_comment: Text<'a>,
        last_modified_by: Text<'a>,
        priority_score: i64,
        system_tags: Texts<'a>,
    }
}

columns! {
    /// `incident_comments`.
    CommentColumns {
        comment: Text<'a>,
        created_by: Text<'a>,
        created_time: Time,
    }
}

columns! {
    /// `alerts`.
    AlertColumns {
        provider_alert_id: Text<'a>,
        service_source: Text<'a>,
        detection_source: Text<'a>,
        detector_id: Text<'a>,
        creation_time: Time,
        last_updated_time: Time,
        resolved_time: Time,
        first_activity: Time,
        last_activity: Time,
        title: Text<'a>,
        description: Text<'a>,
        category: Text<'a>,
        status: Text<'a>,
        severity: Text<'a>,
        investigation_id: i64,
        investigation_state: Text<'a>,
        classification: Text<'a>,
        determination: Text<'a>,
        assigned_to: Text<'a>,
        actor_name: Text<'a>,
        threat_family_name: Text<'a>,
        mitre_techniques: Texts<'a>,
        alert_web_url: Text<'a>,
        recommended_actions: Text<'a>,
        product_name: Text<'a>,
        alert_policy_id: Text<'a>,
        categories: Texts<'a>,
        system_tags: Texts<'a>,
    }
}

columns! {
    /// `devices`. `vm_metadata` is JSON.
    DeviceColumns {
        aad_device_id: Text<'a>,
        device_dns_name: Text<'a>,
        os_platform: Text<'a>,
        version: Text<'a>,
        os_processor: Text<'a>,
        os_build: i64,
        health_status: Text<'a>,
        risk_score: Text<'a>,
        rbac_group_id: i64,
        rbac_group_name: Text<'a>,
        first_seen: Time,
        tags: Texts<'a>,
        defender_av_status: Text<'a>,
        onboarding_status: Text<'a>,
        vm_metadata: Text<'a>,
    }
}

columns! {
    /// `evidence`.
    EvidenceColumns {
        entity_type: Text<'a>,
        evidence_creation_time: Time,
        verdict: Text<'a>,
        remediation_status: Text<'a>,
        sha1: Text<'a>,
        sha256: Text<'a>,
        file_name: Text<'a>,
        file_path: Text<'a>,
        process_id: i64,
        process_command_line: Text<'a>,
        process_creation_time: Time,
        parent_process_id: i64,
        parent_process_creation_time: Time,
        ip_address: Text<'a>,
        url: Text<'a>,
        account_name: Text<'a>,
        domain_name: Text<'a>,
        user_sid: Text<'a>,
        aad_user_id: Text<'a>,
        user_principal_name: Text<'a>,
        mailbox_display_name: Text<'a>,
        mailbox_address: Text<'a>,
        cluster_by: Text<'a>,
        cluster_by_value: Text<'a>,
        email_count: i64,
        sender: Text<'a>,
        recipient: Text<'a>,
        subject: Text<'a>,
        internet_message_id: Text<'a>,
        delivery_action: Text<'a>,
        security_group_id: Text<'a>,
        security_group_name: Text<'a>,
        registry_hive: Text<'a>,
        registry_key: Text<'a>,
        registry_value_type: Text<'a>,
        registry_value: Text<'a>,
        device_id: Text<'a>,
        roles: Texts<'a>,
    }
}
