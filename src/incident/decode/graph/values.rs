//! Values of Graph's enumerations, as the Defender API names them.

use std::borrow::Cow;

use crate::incident::columns::Text;

/// Enumerations whose members do not all follow the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enumeration {
    Severity,
    Determination,
    ServiceSource,
    DetectionSource,
    /// Every other one.
    Regular,
}

use Enumeration::{DetectionSource, Determination, ServiceSource, Severity};

/// Members that the Defender API names differently. Each other member differs in the case of its first letter only.
const RENAMED: [(Enumeration, &str, &str); 13] = [
    (Severity, "unknown", "UnSpecified"),
    (Determination, "unknown", "NotAvailable"),
    (ServiceSource, "microsoftDefenderForCloudApps", "MicrosoftCloudAppSecurity"),
    (ServiceSource, "azureAdIdentityProtection", "AADIdentityProtection"),
    (DetectionSource, "antivirus", "WindowsDefenderAv"),
    (DetectionSource, "microsoftDefenderForEndpoint", "WindowsDefenderAtp"),
    (DetectionSource, "cloudAppSecurity", "MCAS"),
    (DetectionSource, "microsoftDefenderForOffice365", "OfficeATP"),
    (DetectionSource, "azureAdIdentityProtection", "AAD"),
    (DetectionSource, "customTi", "CustomerTI"),
    (DetectionSource, "smartScreen", "WindowsDefenderSmartScreen"),
    (DetectionSource, "microsoftThreatExperts", "ThreatExperts"),
    (DetectionSource, "microsoft365Defender", "MTP"),
];

/// What the API sends in place of a newer member to a client that does not ask for it.
const WITHHELD: &str = "unknownFutureValue";

/// The value under the Defender API's name; `None` if Graph withheld it. Graph's documentation has examples with an upper
/// first letter too.
pub(super) fn converted(enumeration: Enumeration, value: Text<'_>) -> Option<Text<'_>> {
    if value.eq_ignore_ascii_case(WITHHELD) {
        return None;
    }
    let renamed = RENAMED
        .iter()
        .find(|(of, graph, _)| *of == enumeration && graph.eq_ignore_ascii_case(&value));
    if let Some((_, _, ours)) = renamed {
        return Some(Cow::Borrowed(ours));
    }
    match value.chars().next() {
        Some(first) if first.is_ascii_lowercase() => {
            let mut value = value.into_owned();
            value[..1].make_ascii_uppercase();
            Some(Cow::Owned(value))
        }
        _ => Some(value),
    }
}

/// Converts a column; a withheld value is counted like one of another type.
pub(super) fn convert(
    column: &mut Option<Text<'_>>,
    enumeration: Enumeration,
    key: &'static str,
    mistyped: &mut Vec<&'static str>,
) {
    if let Some(value) = column.take() {
        *column = converted(enumeration, value);
        if column.is_none() {
            mistyped.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Enumeration::Regular;
    use super::*;

    /// Every member of section 4.7 of the fact sheet whose conversion is not trivial, and one of each other enumeration.
    const CASES: [(Enumeration, &str, &str); 43] = [
        (Severity, "unknown", "UnSpecified"),
        (Severity, "informational", "Informational"),
        (Severity, "high", "High"),
        (Severity, "Medium", "Medium"),
        (Determination, "unknown", "NotAvailable"),
        (Determination, "Unknown", "NotAvailable"),
        (Determination, "apt", "Apt"),
        (Determination, "multiStagedAttack", "MultiStagedAttack"),
        (Determination, "MultiStagedAttack", "MultiStagedAttack"),
        (Determination, "compromisedAccount", "CompromisedAccount"),
        (Determination, "notMalicious", "NotMalicious"),
        (Determination, "notEnoughDataToValidate", "NotEnoughDataToValidate"),
        (Determination, "confirmedActivity", "ConfirmedActivity"),
        (Regular, "informationalExpectedActivity", "InformationalExpectedActivity"),
        (Regular, "truePositive", "TruePositive"),
        (Regular, "unknown", "Unknown"),
        (ServiceSource, "microsoftDefenderForCloudApps", "MicrosoftCloudAppSecurity"),
        (ServiceSource, "azureAdIdentityProtection", "AADIdentityProtection"),
        (ServiceSource, "microsoftDefenderForEndpoint", "MicrosoftDefenderForEndpoint"),
        (ServiceSource, "microsoftDefenderForIdentity", "MicrosoftDefenderForIdentity"),
        (ServiceSource, "microsoftDefenderForOffice365", "MicrosoftDefenderForOffice365"),
        (ServiceSource, "microsoft365Defender", "Microsoft365Defender"),
        (ServiceSource, "microsoftSentinel", "MicrosoftSentinel"),
        (ServiceSource, "unknown", "Unknown"),
        (DetectionSource, "antivirus", "WindowsDefenderAv"),
        (DetectionSource, "microsoftDefenderForEndpoint", "WindowsDefenderAtp"),
        (DetectionSource, "cloudAppSecurity", "MCAS"),
        (DetectionSource, "microsoftDefenderForOffice365", "OfficeATP"),
        (DetectionSource, "azureAdIdentityProtection", "AAD"),
        (DetectionSource, "customTi", "CustomerTI"),
        (DetectionSource, "smartScreen", "WindowsDefenderSmartScreen"),
        (DetectionSource, "microsoftThreatExperts", "ThreatExperts"),
        (DetectionSource, "microsoft365Defender", "MTP"),
        (DetectionSource, "automatedInvestigation", "AutomatedInvestigation"),
        (DetectionSource, "manual", "Manual"),
        (DetectionSource, "customDetection", "CustomDetection"),
        (DetectionSource, "scheduledAlerts", "ScheduledAlerts"),
        (Regular, "active", "Active"),
        (Regular, "inProgress", "InProgress"),
        (Regular, "awaitingAction", "AwaitingAction"),
        (Regular, "noThreatsFound", "NoThreatsFound"),
        (Regular, "none", "None"),
        (Regular, "aNewMember", "ANewMember"),
    ];

    #[test]
    fn each_member_gets_its_defender_name() {
        for (enumeration, graph, ours) in CASES {
            assert_eq!(converted(enumeration, graph.into()).as_deref(), Some(ours), "{graph}");
        }
    }

    #[test]
    fn renamed_members_are_all_tested() {
        for row in RENAMED {
            assert!(CASES.contains(&row), "{row:?}");
        }
    }

    #[test]
    fn withheld_value_is_null_and_counted() {
        for text in ["unknownFutureValue", "UnknownFutureValue"] {
            let (mut column, mut mistyped) = (Some(text.into()), Vec::new());
            convert(&mut column, Severity, "severity", &mut mistyped);
            assert_eq!((column, mistyped), (None, vec!["severity"]));
        }
    }

    #[test]
    fn null_empty_and_unknown_values_are_kept() {
        let (mut column, mut mistyped) = (None, Vec::new());
        convert(&mut column, Severity, "severity", &mut mistyped);
        assert_eq!((column, mistyped.len()), (None, 0));
        assert_eq!(converted(Severity, "".into()).as_deref(), Some(""));
        assert_eq!(converted(Severity, "ärger".into()).as_deref(), Some("ärger"));
    }
}
