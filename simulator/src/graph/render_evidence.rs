//! Devices and entities of the Defender API as the typed evidence of Graph.

use super::enums::{camel_case, plain};
use super::fields::{Fields, View, array, elements, text};
use super::new_evidence;
use super::rendered::Variant;

/// The values that evidence takes from its alert.
pub(super) struct Scene<'a> {
    variant: &'a Variant,
    alert_created: Option<&'a str>,
}

/// Keys of an entity that Graph has in another place.
const BASE_KEYS: [&str; 4] = ["entityType", "evidenceCreationTime", "verdict", "remediationStatus"];

impl<'a> Scene<'a> {
    pub(super) fn new(variant: &'a Variant, alert_created: Option<&'a str>) -> Self {
        Self { variant, alert_created }
    }

    /// Devices, then entities, then evidence that only Graph has.
    pub(super) fn evidence(&self, alert: &View<'_>, incident_id: &str, place: usize) -> String {
        let list = |key| alert.raw(key).and_then(elements).unwrap_or_default();
        let mut evidence = Vec::new();
        for (key, of) in [
            ("devices", Self::device as fn(&Self, &View<'_>) -> String),
            ("entities", Self::entity),
        ] {
            evidence.extend(list(key).iter().map(|json| {
                let object = View::parse(json.get());
                object.map_or_else(|| json.get().to_owned(), |object| of(self, &object))
            }));
        }
        if place == 0 {
            evidence.extend(new_evidence::of(self.variant, incident_id, self.alert_created));
        }
        array(&evidence)
    }

    /// The first keys of all types. Graph has a value that Defender lacks only if the two may differ.
    fn base(&self, name: &str, entity: &View<'_>, roles: &[&str]) -> Fields {
        let differs = self.variant.behaviour.differs;
        let is_device = name == "device";
        let spelling = self.variant.spelling();
        let created = entity.raw("evidenceCreationTime");
        let verdict = plain(entity.raw("verdict"))
            .or_else(|| (differs || is_device).then(|| text("unknown")));
        let status = spelling.remediation_status(entity.raw("remediationStatus"));
        let status = status.or_else(|| (differs || is_device).then(|| text("none")));
        let tags = entity.raw("tags").or((differs || !is_device).then_some("[]"));
        Fields::new()
            .with("@odata.type", format!("#microsoft.graph.security.{name}Evidence"))
            .raw("createdDateTime", created.or(self.alert_created.filter(|_| differs || is_device)))
            .raw("verdict", verdict.as_deref())
            .raw("remediationStatus", status.as_deref())
            .raw("remediationStatusDetails", None)
            .with("roles", roles)
            .raw("detailedRoles", Some("[]"))
            .raw("tags", tags)
    }

    fn device(&self, device: &View<'_>) -> String {
        let differs = self.variant.behaviour.differs;
        let name: Option<String> = device.get("deviceDnsName");
        let host = name.as_deref().and_then(|name| name.split('.').next()).filter(|_| differs);
        let addresses: &[&str] = if differs { &["192.0.2.65", "::1"] } else { &[] };
        self.base("device", device, &["compromised"])
            .raw("firstSeenDateTime", device.raw("firstSeen"))
            .raw("mdeDeviceId", device.raw("mdatpDeviceId"))
            .raw("azureAdDeviceId", device.raw("aadDeviceId"))
            .raw("deviceDnsName", device.raw("deviceDnsName"))
            .with("hostName", host)
            .nulls(&["ntDomain", "dnsDomain"])
            .raw("osPlatform", device.raw("osPlatform"))
            .raw("osBuild", device.raw("osBuild"))
            .raw("version", device.raw("version"))
            .raw("healthStatus", plain(device.raw("healthStatus")).as_deref())
            .raw("riskScore", plain(device.raw("riskScore")).as_deref())
            .raw("rbacGroupId", device.raw("rbacGroupId"))
            .raw("rbacGroupName", device.raw("rbacGroupName"))
            .raw("onboardingStatus", plain(device.raw("onboardingStatus")).as_deref())
            .raw("defenderAvStatus", plain(device.raw("defenderAvStatus")).as_deref())
            .nulls(&["lastIpAddress", "lastExternalIpAddress"])
            .with("ipInterfaces", addresses)
            .raw("vmMetadata", vm_metadata(device, differs).as_deref())
            .raw("loggedOnUsers", Some("[]"))
            .raw("resourceAccessEvents", Some("[]"))
            .close()
    }

    fn entity(&self, entity: &View<'_>) -> String {
        let raw = |key| entity.raw(key);
        let kind: String = entity.get("entityType").unwrap_or_default();
        match kind.as_str() {
            "User" => self
                .base("user", entity, &["attacked"])
                .raw("stream", None)
                .raw("userAccount", Some(&account(entity)))
                .close(),
            "Ip" => self
                .base("ip", entity, &["source"])
                .raw("ipAddress", raw("ipAddress"))
                .with("countryLetterCode", self.variant.behaviour.differs.then_some("NL"))
                .nulls(&["location", "stream"])
                .close(),
            "Url" => self.base("url", entity, &[]).raw("url", raw("url")).close(),
            "File" => self
                .base("file", entity, &[])
                .raw("detectionStatus", None)
                .raw("mdeDeviceId", raw("deviceId"))
                .raw("fileDetails", Some(&file(entity)))
                .close(),
            "Process" => self.process(entity),
            "Mailbox" | "MailBox" => self.mailbox(entity),
            "MailMessage" => self.message(entity),
            "MailCluster" => self
                .base("mailCluster", entity, &[])
                .raw("clusterBy", raw("clusterBy"))
                .raw("clusterByValue", raw("clusterByValue"))
                .raw("emailCount", raw("emailCount"))
                .raw("networkMessageIds", Some("[]"))
                .nulls(&["query", "urn"])
                .close(),
            "Registry" => self.registry(entity),
            "SecurityGroup" => self
                .base("securityGroup", entity, &[])
                .raw("securityGroupId", raw("securityGroupId"))
                .raw("displayName", raw("securityGroupName"))
                .nulls(&["activeDirectoryObjectGuid", "distinguishedName", "friendlyName", "sid"])
                .close(),
            other => self.other(other, entity),
        }
    }

    fn process(&self, entity: &View<'_>) -> String {
        let raw = |key| entity.raw(key);
        let nothing = View::default();
        self.base("process", entity, &[])
            .raw("processId", raw("processId"))
            .raw("parentProcessId", raw("parentProcessId"))
            .raw("processCommandLine", raw("processCommandLine"))
            .raw("processCreationDateTime", raw("processCreationTime"))
            .raw("parentProcessCreationDateTime", raw("parentProcessCreationTime"))
            .with("detectionStatus", self.variant.behaviour.differs.then_some("detected"))
            .raw("mdeDeviceId", raw("deviceId"))
            .raw("imageFile", Some(&file(entity)))
            .raw("parentProcessImageFile", Some(&file(&nothing)))
            .raw("userAccount", Some(&account(entity)))
            .close()
    }

    fn mailbox(&self, entity: &View<'_>) -> String {
        let nothing = self.variant.behaviour.differs.then_some("\"\"");
        self.base("mailbox", entity, &[])
            .raw("primaryAddress", entity.raw("mailboxAddress"))
            .raw("displayName", entity.raw("mailboxDisplayName").or(nothing))
            .raw("upn", entity.raw("userPrincipalName").or(nothing))
            .raw("userAccount", Some(&account(entity)))
            .close()
    }

    fn message(&self, entity: &View<'_>) -> String {
        let sender = |address: Option<&str>| {
            Fields::new().raw("emailAddress", address).nulls(&["displayName", "domainName"]).close()
        };
        self.base("analyzedMessage", entity, &[])
            .raw("networkMessageId", None)
            .raw("internetMessageId", entity.raw("internetMessageId"))
            .raw("subject", entity.raw("subject"))
            .nulls(&["language", "senderIp"])
            .raw("recipientEmailAddress", entity.raw("recipient"))
            .raw("antiSpamDirection", None)
            .raw("deliveryAction", entity.raw("deliveryAction"))
            .nulls(&["deliveryLocation", "urn"])
            .raw("threats", Some("[]"))
            .raw("threatDetectionMethods", Some("[]"))
            .raw("urls", Some("[]"))
            .nulls(&["urlCount", "attachmentsCount", "receivedDateTime"])
            .raw("p1Sender", Some(&sender(None)))
            .raw("p2Sender", Some(&sender(entity.raw("sender"))))
            .close()
    }

    /// Only registry values have a device.
    fn registry(&self, entity: &View<'_>) -> String {
        let raw = |key| entity.raw(key);
        let has_value =
            ["registryValue", "registryValueType", "deviceId"].iter().any(|key| raw(key).is_some());
        let name = if has_value { "registryValue" } else { "registryKey" };
        let fields = self
            .base(name, entity, &[])
            .raw("registryHive", raw("registryHive"))
            .raw("registryKey", raw("registryKey"));
        if !has_value {
            return fields.close();
        }
        fields
            .raw("mdeDeviceId", raw("deviceId"))
            .raw("registryValueName", None)
            .raw("registryValue", raw("registryValue"))
            .raw("registryValueType", raw("registryValueType"))
            .close()
    }

    /// A type without a documented counterpart keeps its properties.
    fn other(&self, kind: &str, entity: &View<'_>) -> String {
        let name = camel_case(kind);
        let name = if name.is_empty() { "alert" } else { &name };
        let rest = entity.iter().filter(|(key, _)| !BASE_KEYS.contains(key));
        rest.fold(self.base(name, entity, &[]), |fields, (key, json)| fields.raw(key, Some(json)))
            .close()
    }
}

fn vm_metadata(device: &View<'_>, differs: bool) -> Option<String> {
    let served = device.raw("vmMetadata")?;
    let Some(metadata) = View::parse(served).filter(|_| differs) else {
        return Some(served.to_owned());
    };
    let fields = Fields::new()
        .raw("vmId", metadata.raw("vmId"))
        .raw("cloudProvider", plain(metadata.raw("cloudProvider")).as_deref())
        .nulls(&["resourceId", "subscriptionId"]);
    Some(fields.close())
}

fn account(entity: &View<'_>) -> String {
    Fields::new()
        .raw("accountName", entity.raw("accountName"))
        .raw("domainName", entity.raw("domainName"))
        .raw("userSid", entity.raw("userSid"))
        .raw("azureAdUserId", entity.raw("aadUserId"))
        .raw("tenantId", None)
        .raw("userPrincipalName", entity.raw("userPrincipalName"))
        .nulls(&["displayName", "activeDirectoryObjectGuid"])
        .raw("resourceAccessEvents", Some("[]"))
        .close()
}

fn file(entity: &View<'_>) -> String {
    Fields::new()
        .raw("sha1", entity.raw("sha1"))
        .raw("sha256", entity.raw("sha256"))
        .nulls(&["md5", "sha256Ac"])
        .raw("fileName", entity.raw("fileName"))
        .raw("filePath", entity.raw("filePath"))
        .nulls(&["fileSize", "filePublisher", "signer", "issuer"])
        .close()
}
