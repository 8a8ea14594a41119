//! Which property of which type of evidence fills which column. What is not named here goes to `extra`.

use crate::incident::columns::{EvidenceColumns, Text, Time};

/// A column of the evidence table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    Text(for<'e, 'a> fn(&'e mut EvidenceColumns<'a>) -> &'e mut Option<Text<'a>>),
    Number(for<'e, 'a> fn(&'e mut EvidenceColumns<'a>) -> &'e mut Option<i64>),
    Time(for<'e, 'a> fn(&'e mut EvidenceColumns<'a>) -> &'e mut Option<Time>),
}

/// What becomes of a property.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    /// It moves to the column; a value that finds its column filled stays in `extra`.
    Fill(Column),
    /// An enumeration, which moves to a column of text.
    FillConverted(Column),
    /// An object whose properties have uses of their own; what is left of it stays in `extra`.
    Inside(&'static [Property]),
    /// An object that stays in `extra` whole. Its properties are copied.
    Copied(&'static [Property]),
}

/// A property by its name.
pub(super) type Property = (&'static str, Use);

macro_rules! fill {
    (text $column:ident) => {
        Use::Fill(Column::Text(|columns| &mut columns.$column))
    };
    (number $column:ident) => {
        Use::Fill(Column::Number(|columns| &mut columns.$column))
    };
    (time $column:ident) => {
        Use::Fill(Column::Time(|columns| &mut columns.$column))
    };
    (converted $column:ident) => {
        Use::FillConverted(Column::Text(|columns| &mut columns.$column))
    };
}

/// A type of evidence that the Defender API has as well.
#[derive(Debug)]
pub(super) struct EvidenceType {
    pub(super) name: &'static str,
    /// As the Defender API names it.
    pub(super) entity_type: &'static str,
    pub(super) properties: &'static [Property],
}

/// Properties of every type; `roles` has a column too.
pub(super) const BASE: &[Property] = &[
    ("createdDateTime", fill!(time evidence_creation_time)),
    ("verdict", fill!(converted verdict)),
    ("remediationStatus", fill!(converted remediation_status)),
];

const USER_ACCOUNT: &[Property] = &[
    ("accountName", fill!(text account_name)),
    ("domainName", fill!(text domain_name)),
    ("userSid", fill!(text user_sid)),
    ("azureAdUserId", fill!(text aad_user_id)),
    ("userPrincipalName", fill!(text user_principal_name)),
];

const FILE: &[Property] = &[
    ("sha1", fill!(text sha1)),
    ("sha256", fill!(text sha256)),
    ("fileName", fill!(text file_name)),
    ("filePath", fill!(text file_path)),
];

const SENDER: &[Property] = &[("emailAddress", fill!(text sender))];

/// With devices, the twelve types that both APIs have. The properties of one column stand in the order of preference.
pub(super) const SHARED_TYPES: [EvidenceType; 11] = [
    EvidenceType {
        name: "userEvidence",
        entity_type: "User",
        properties: &[("userAccount", Use::Inside(USER_ACCOUNT))],
    },
    EvidenceType {
        name: "ipEvidence",
        entity_type: "Ip",
        properties: &[("ipAddress", fill!(text ip_address))],
    },
    EvidenceType {
        name: "urlEvidence",
        entity_type: "Url",
        properties: &[("url", fill!(text url))],
    },
    EvidenceType {
        name: "fileEvidence",
        entity_type: "File",
        properties: &[("fileDetails", Use::Inside(FILE)), ("mdeDeviceId", fill!(text device_id))],
    },
    EvidenceType {
        name: "processEvidence",
        entity_type: "Process",
        properties: &[
            ("processId", fill!(number process_id)),
            ("parentProcessId", fill!(number parent_process_id)),
            ("processCommandLine", fill!(text process_command_line)),
            ("processCreationDateTime", fill!(time process_creation_time)),
            ("parentProcessCreationDateTime", fill!(time parent_process_creation_time)),
            ("imageFile", Use::Inside(FILE)),
            ("mdeDeviceId", fill!(text device_id)),
            ("userAccount", Use::Inside(USER_ACCOUNT)),
        ],
    },
    EvidenceType {
        name: "mailboxEvidence",
        entity_type: "Mailbox",
        properties: &[
            ("primaryAddress", fill!(text mailbox_address)),
            ("displayName", fill!(text mailbox_display_name)),
            ("upn", fill!(text user_principal_name)),
            ("userAccount", Use::Inside(USER_ACCOUNT)),
        ],
    },
    EvidenceType {
        name: "analyzedMessageEvidence",
        entity_type: "MailMessage",
        properties: &[
            ("p2Sender", Use::Copied(SENDER)),
            ("p1Sender", Use::Copied(SENDER)),
            ("recipientEmailAddress", fill!(text recipient)),
            ("subject", fill!(text subject)),
            ("internetMessageId", fill!(text internet_message_id)),
            ("deliveryAction", fill!(text delivery_action)),
        ],
    },
    EvidenceType {
        name: "mailClusterEvidence",
        entity_type: "MailCluster",
        properties: &[
            ("clusterBy", fill!(text cluster_by)),
            ("clusterByValue", fill!(text cluster_by_value)),
            ("emailCount", fill!(number email_count)),
        ],
    },
    EvidenceType {
        name: "registryKeyEvidence",
        entity_type: "Registry",
        properties: &[
            ("registryHive", fill!(text registry_hive)),
            ("registryKey", fill!(text registry_key)),
        ],
    },
    EvidenceType {
        name: "registryValueEvidence",
        entity_type: "Registry",
        properties: &[
            ("registryHive", fill!(text registry_hive)),
            ("registryKey", fill!(text registry_key)),
            ("registryValue", fill!(text registry_value)),
            ("registryValueType", fill!(text registry_value_type)),
            ("mdeDeviceId", fill!(text device_id)),
        ],
    },
    EvidenceType {
        name: "securityGroupEvidence",
        entity_type: "SecurityGroup",
        properties: &[
            ("securityGroupId", fill!(text security_group_id)),
            ("displayName", fill!(text security_group_name)),
        ],
    },
];
