//! Enum values of the Defender API in Graph's spelling.

use super::fields::text;

/// The spellings for a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spelling {
    /// Members added after the first version of the schema keep their names.
    pub(super) keeps_new_members: bool,
    /// Determinations use the vocabulary of Graph's schema, not the one of the property pages.
    pub(super) by_schema: bool,
}

const INCIDENT_STATUSES: &[&str] = &["active", "resolved", "inProgress", "redirected"];
const REMEDIATION_STATUSES: &[&str] = &["none", "remediated", "prevented", "blocked", "notFound"];
const SERVICE_SOURCES: &[&str] = &[
    "unknown",
    "microsoftDefenderForEndpoint",
    "microsoftDefenderForIdentity",
    "microsoftDefenderForCloudApps",
    "microsoftDefenderForOffice365",
    "microsoft365Defender",
    "azureAdIdentityProtection",
    "microsoftAppGovernance",
    "dataLossPrevention",
];
const DETECTION_SOURCES: &[&str] = &[
    "unknown",
    "microsoftDefenderForEndpoint",
    "antivirus",
    "smartScreen",
    "customTi",
    "microsoftDefenderForOffice365",
    "automatedInvestigation",
    "microsoftThreatExperts",
    "customDetection",
    "microsoftDefenderForIdentity",
    "cloudAppSecurity",
    "microsoft365Defender",
    "azureAdIdentityProtection",
    "manual",
    "microsoftDataLossPrevention",
    "appGovernancePolicy",
    "appGovernanceDetection",
];

impl Spelling {
    pub(super) fn incident_status(self, json: Option<&str>) -> Option<String> {
        self.known(json, camel_case, INCIDENT_STATUSES)
    }

    pub(super) fn remediation_status(self, json: Option<&str>) -> Option<String> {
        self.known(json, camel_case, REMEDIATION_STATUSES)
    }

    pub(super) fn service_source(self, json: Option<&str>) -> Option<String> {
        self.known(json, service_source, SERVICE_SOURCES)
    }

    pub(super) fn detection_source(self, json: Option<&str>) -> Option<String> {
        self.known(json, detection_source, DETECTION_SOURCES)
    }

    pub(super) fn determination(self, json: Option<&str>) -> Option<String> {
        let convert = |value: &str| match value {
            "NotAvailable" => "unknown".to_owned(),
            "CompromisedUser" if self.by_schema => "compromisedAccount".to_owned(),
            "Clean" if self.by_schema => "notMalicious".to_owned(),
            "InsufficientData" if self.by_schema => "notEnoughDataToValidate".to_owned(),
            "ConfirmedUserActivity" if self.by_schema => "confirmedActivity".to_owned(),
            other => camel_case(other),
        };
        converted(json, convert)
    }

    /// A member added later is hidden unless the request asks for its name.
    fn known(
        self,
        json: Option<&str>,
        convert: impl Fn(&str) -> String,
        first_members: &[&str],
    ) -> Option<String> {
        converted(json, |value| {
            let member = convert(value);
            if self.keeps_new_members || first_members.contains(&member.as_str()) {
                member
            } else {
                "unknownFutureValue".to_owned()
            }
        })
    }
}

pub(super) fn severity(json: Option<&str>) -> Option<String> {
    converted(json, |value| match value {
        "UnSpecified" => "unknown".to_owned(),
        other => camel_case(other),
    })
}

/// An enum that differs only in the case of its first letter.
pub(super) fn plain(json: Option<&str>) -> Option<String> {
    converted(json, camel_case)
}

pub(super) fn camel_case(value: &str) -> String {
    let mut letters = value.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn service_source(value: &str) -> String {
    let member = match value {
        "MicrosoftCloudAppSecurity" => "microsoftDefenderForCloudApps",
        "AADIdentityProtection" => "azureAdIdentityProtection",
        "MicrosoftDefenderATP" => "microsoftDefenderForEndpoint",
        "OfficeATP" => "microsoftDefenderForOffice365",
        "AzureATP" => "microsoftDefenderForIdentity",
        other => return camel_case(other),
    };
    member.to_owned()
}

fn detection_source(value: &str) -> String {
    let member = match value {
        "WindowsDefenderAv" => "antivirus",
        "WindowsDefenderAtp" => "microsoftDefenderForEndpoint",
        "MCAS" => "cloudAppSecurity",
        "OfficeATP" => "microsoftDefenderForOffice365",
        "AAD" => "azureAdIdentityProtection",
        "CustomerTI" => "customTi",
        "WindowsDefenderSmartScreen" => "smartScreen",
        "ThreatExperts" => "microsoftThreatExperts",
        "MTP" => "microsoft365Defender",
        other => return camel_case(other),
    };
    member.to_owned()
}

/// Converts strings; null and other values are unchanged.
fn converted(json: Option<&str>, convert: impl Fn(&str) -> String) -> Option<String> {
    let json = json?;
    match serde_json::from_str::<String>(json) {
        Ok(value) => Some(text(convert(&value))),
        Err(_) => Some(json.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_enum_members_are_hidden_without_prefer() {
        let spelling = |keeps_new_members| Spelling { keeps_new_members, by_schema: false };
        let (known, new) = (Some("\"AADIdentityProtection\""), Some("\"MicrosoftSentinel\""));
        assert_eq!(
            spelling(false).service_source(known).as_deref(),
            Some("\"azureAdIdentityProtection\"")
        );
        assert_eq!(spelling(false).service_source(new).as_deref(), Some("\"unknownFutureValue\""));
        assert_eq!(spelling(true).service_source(new).as_deref(), Some("\"microsoftSentinel\""));
        assert_eq!(spelling(true).service_source(None), None);
        assert_eq!(spelling(true).incident_status(Some("7")).as_deref(), Some("7"));
    }

    #[test]
    fn irregular_enum_spellings_are_converted() {
        let spelling = Spelling { keeps_new_members: true, by_schema: true };
        let determination = |text| spelling.determination(Some(text));
        assert_eq!(determination("\"NotAvailable\"").as_deref(), Some("\"unknown\""));
        assert_eq!(determination("\"Clean\"").as_deref(), Some("\"notMalicious\""));
        assert_eq!(severity(Some("\"UnSpecified\"")).as_deref(), Some("\"unknown\""));
        let detection = |text| spelling.detection_source(Some(text));
        assert_eq!(detection("\"MTP\"").as_deref(), Some("\"microsoft365Defender\""));
        assert_eq!(
            detection("\"AutomatedInvestigation\"").as_deref(),
            Some("\"automatedInvestigation\"")
        );
    }
}
