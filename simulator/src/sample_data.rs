//! The content of seeded incidents.

/// One kind of alert. An incident has the title of its first alert.
pub(super) struct Story {
    pub(super) title: &'static str,
    pub(super) category: &'static str,
    pub(super) service_source: &'static str,
    pub(super) detection_source: &'static str,
    /// The product of an alert determines the prefix of its id.
    pub(super) prefix: &'static str,
    pub(super) severity: &'static str,
    pub(super) techniques: &'static [&'static str],
    pub(super) family: Option<&'static str>,
    pub(super) actor: Option<&'static str>,
}

const fn story(
    title: &'static str,
    category: &'static str,
    source: (&'static str, &'static str, &'static str),
    severity: &'static str,
    techniques: &'static [&'static str],
) -> Story {
    Story {
        title,
        category,
        service_source: source.0,
        detection_source: source.1,
        prefix: source.2,
        severity,
        techniques,
        family: None,
        actor: None,
    }
}

/// Service source, detection source and prefix of the alert id.
type Source = (&'static str, &'static str, &'static str);
const ENDPOINT: Source = ("MicrosoftDefenderForEndpoint", "WindowsDefenderAtp", "da");
const ANTIVIRUS: Source = ("MicrosoftDefenderForEndpoint", "WindowsDefenderAv", "da");
const OFFICE: Source = ("MicrosoftDefenderForOffice365", "OfficeATP", "fa");
const CLOUD_APPS: Source = ("MicrosoftCloudAppSecurity", "MCAS", "ca");
const IDENTITY: Source = ("AADIdentityProtection", "AAD", "ad");
const XDR: Source = ("Microsoft365Defender", "CustomDetection", "ea");

/// All stories.
pub(super) const STORIES: &[Story] = &[
    story("Ransomware activity", "Impact", CLOUD_APPS, "High", &["T1486"]),
    Story {
        family: Some("Mimikatz"),
        ..story("'Mimikatz' hacktool was detected", "Malware", ANTIVIRUS, "Low", &["T1003.001"])
    },
    story(
        "Email reported by user as malware or phish",
        "InitialAccess",
        OFFICE,
        "Informational",
        &[],
    ),
    story(
        "Email messages containing malicious URL removed after delivery",
        "InitialAccess",
        OFFICE,
        "Informational",
        &["T1566.002"],
    ),
    story(
        "Unfamiliar sign-in properties",
        "InitialAccess",
        IDENTITY,
        "Medium",
        &["T1078", "T1078.004"],
    ),
    story("Suspicious PowerShell command line", "Execution", ENDPOINT, "Medium", &["T1059.001"]),
    story(
        "Suspected credential theft activity",
        "CredentialAccess",
        ENDPOINT,
        "High",
        &["T1003", "T1110"],
    ),
    Story {
        actor: Some("BORON"),
        ..story(
            "Activity linked to an emerging threat group",
            "CommandAndControl",
            ENDPOINT,
            "High",
            &["T1071.001", "T1105"],
        )
    },
    story(
        "Suspicious inbox manipulation rule",
        "DefenseEvasion",
        CLOUD_APPS,
        "Medium",
        &["T1564.008"],
    ),
    story(
        "Anomalous token used from an unusual location",
        "CredentialAccess",
        IDENTITY,
        "High",
        &["T1528"],
    ),
    Story {
        family: Some("Emotet"),
        ..story(
            "'Emotet' malware was prevented",
            "Malware",
            ANTIVIRUS,
            "Informational",
            &["T1204.002"],
        )
    },
    story(
        "Possible lateral movement involving multiple users",
        "LateralMovement",
        ENDPOINT,
        "High",
        &["T1021.002"],
    ),
    story("Registry run key set by an unsigned process", "Persistence", XDR, "Low", &["T1547.001"]),
    story(
        "Mass download by a departing user",
        "Exfiltration",
        CLOUD_APPS,
        "Medium",
        &["T1567.002"],
    ),
];

/// The descriptions are prefixes of this text, of the length that gives an incident its size.
pub(super) const PROSE: &str = "The detection compares the activity of the account and of the device with the thirty days before it. \
Readily available tools can be used by unauthorized individuals to spy on users, and attackers often install them without authorization to compromise targeted machines.\n\n\
These tools are often used to collect personal information from browser records, record key presses, access email and instant messages, and take screenshots. \
The process started from a directory that is writable for every user, opened a connection to an address that no other device of the organization has contacted, and read credentials from memory. \
This might indicate that an attacker has obtained a valid password and now tries to reach other devices.\n\n\
Check the device for the files and processes named below, isolate it if they are not expected, reset the password of the account and revoke its sessions. \
If a legitimate administrative tool caused the alert, classify it as an expected activity so that the model learns from it. ";

pub(super) const FIRST_NAMES: &[&str] = &[
    "amara", "bruno", "chiara", "dmitri", "elif", "farid", "greta", "hana", "ivan", "jonas",
    "keiko", "liam", "maya", "noor", "olga", "pablo",
];
pub(super) const LAST_NAMES: &[&str] = &[
    "okafor",
    "silva",
    "romano",
    "volkov",
    "yilmaz",
    "haddad",
    "lindqvist",
    "novak",
    "petrov",
    "weber",
    "tanaka",
    "murphy",
    "cohen",
    "rahman",
    "ivanova",
    "garcia",
];
pub(super) const ANALYSTS: &[&str] = &["soc.tier1", "soc.tier2", "j.doe", "night.shift"];
pub(super) const TAGS: &[&str] =
    &["Ransomware", "VIP", "Credential Phish", "escalated", "customer informed", "Tier 0"];
pub(super) const COMMENTS: &[&str] = &[
    "Called the user: the sign-in was not theirs. Sessions revoked.",
    "Device isolated, waiting for the customer's answer.",
    "Known pentest window, see the change calendar. Leaving open until confirmed.",
    "Hash is clean on every engine; asking the product team.\nSecond look tomorrow.",
    "Übergabe an Tier 2 – bitte prüfen 🔎",
];
pub(super) const SEVERITIES: &[&str] = &["Informational", "Low", "Medium", "High"];
pub(super) const INVESTIGATIONS: &[&str] = &[
    "UnsupportedAlertType",
    "UnsupportedOs",
    "Queued",
    "Running",
    "PendingApproval",
    "Benign",
    "TerminatedBySystem",
    "SuccessfullyRemediated",
];
/// Classification and determination by an analyst.
pub(super) const CONCLUSIONS: &[(&str, &str)] = &[
    ("TruePositive", "Malware"),
    ("TruePositive", "Phishing"),
    ("TruePositive", "CompromisedUser"),
    ("FalsePositive", "Clean"),
    ("InformationalExpectedActivity", "SecurityTesting"),
];
