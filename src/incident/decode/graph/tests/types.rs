use super::*;

/// Each type by hand, with what its entities are called.
const ENTITY_TYPES: [(&str, &str); 48] = [
    ("activeDirectoryDomainEvidence", "ActiveDirectoryDomain"),
    ("aiAgentEvidence", "AiAgent"),
    ("amazonResourceEvidence", "AmazonResource"),
    ("analyzedMessageEvidence", "MailMessage"),
    ("azureResourceEvidence", "AzureResource"),
    ("blobContainerEvidence", "BlobContainer"),
    ("blobEvidence", "Blob"),
    ("cloudApplicationEvidence", "CloudApplication"),
    ("cloudLogonRequestEvidence", "CloudLogonRequest"),
    ("cloudLogonSessionEvidence", "CloudLogonSession"),
    ("containerEvidence", "Container"),
    ("containerImageEvidence", "ContainerImage"),
    ("containerRegistryEvidence", "ContainerRegistry"),
    ("deviceEvidence", "Device"),
    ("dnsEvidence", "Dns"),
    ("fileEvidence", "File"),
    ("fileHashEvidence", "FileHash"),
    ("gitHubOrganizationEvidence", "GitHubOrganization"),
    ("gitHubRepoEvidence", "GitHubRepo"),
    ("gitHubUserEvidence", "GitHubUser"),
    ("googleCloudResourceEvidence", "GoogleCloudResource"),
    ("hostLogonSessionEvidence", "HostLogonSession"),
    ("ioTDeviceEvidence", "IoTDevice"),
    ("ipEvidence", "Ip"),
    ("kubernetesClusterEvidence", "KubernetesCluster"),
    ("kubernetesControllerEvidence", "KubernetesController"),
    ("kubernetesNamespaceEvidence", "KubernetesNamespace"),
    ("kubernetesPodEvidence", "KubernetesPod"),
    ("kubernetesSecretEvidence", "KubernetesSecret"),
    ("kubernetesServiceAccountEvidence", "KubernetesServiceAccount"),
    ("kubernetesServiceEvidence", "KubernetesService"),
    ("mailClusterEvidence", "MailCluster"),
    ("mailboxConfigurationEvidence", "MailboxConfiguration"),
    ("mailboxEvidence", "Mailbox"),
    ("malwareEvidence", "Malware"),
    ("networkConnectionEvidence", "NetworkConnection"),
    ("nicEvidence", "Nic"),
    ("oauthApplicationEvidence", "OauthApplication"),
    ("processEvidence", "Process"),
    ("registryKeyEvidence", "Registry"),
    ("registryValueEvidence", "Registry"),
    ("sasTokenEvidence", "SasToken"),
    ("securityGroupEvidence", "SecurityGroup"),
    ("servicePrincipalEvidence", "ServicePrincipal"),
    ("submissionMailEvidence", "SubmissionMail"),
    ("teamsMessageEvidence", "TeamsMessage"),
    ("urlEvidence", "Url"),
    ("userEvidence", "User"),
];

/// Every scalar of a document.
fn leaves(value: &Json, found: &mut Vec<String>) {
    match value {
        Json::Object(object) => {
            object.iter().filter(|(key, _)| !key.contains('@')).for_each(|(_, value)| {
                leaves(value, found);
            });
        }
        Json::Array(list) => list.iter().for_each(|value| leaves(value, found)),
        Json::Null => {}
        scalar => found.push(scalar.as_str().map_or_else(|| scalar.to_string(), str::to_owned)),
    }
}

/// As it stands in a column: in the precision of Postgres, with an upper first letter.
fn as_stored(leaf: &str) -> String {
    match leaf {
        "suspicious" => "Suspicious".to_owned(),
        "none" => "None".to_owned(),
        "2026-08-12T20:48:22.1234567Z" => "2026-08-12T20:48:22.123456Z".to_owned(),
        other => other.to_owned(),
    }
}

#[test]
fn every_evidence_type_is_stored_without_loss() {
    let types: Json = serde_json::from_str(TYPES).unwrap();
    let types = types["evidence"].as_array().unwrap();
    let names =
        types.iter().map(|one| one["@odata.type"].as_str().unwrap().rsplit('.').next().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ENTITY_TYPES.map(|(name, _)| name));
    for (one, (name, entity_type)) in types.iter().zip(ENTITY_TYPES) {
        let mut one = one.clone();
        if name == "deviceEvidence" {
            one["mdeDeviceId"] = Json::Null;
        }
        rows_of(&page_of_evidence(&one.to_string()), TENANT, |rows| {
            assert_eq!((rows.evidence.len(), rows.devices.len()), (1, 0), "{name}");
            assert_eq!(rows.mistyped, Vec::<&str>::new(), "{name}");
            let row = &rows.evidence[0];
            assert_eq!(row.columns.entity_type.as_deref(), Some(entity_type));
            let columns = shown(&row.columns);
            let mut kept: Vec<String> =
                columns.iter().map(|column| column.split_once('=').unwrap().1.to_owned()).collect();
            let extra =
                row.extra.as_deref().map_or(Json::Null, |text| serde_json::from_str(text).unwrap());
            leaves(&extra, &mut kept);
            let mut served = Vec::new();
            leaves(&one, &mut served);
            for leaf in served {
                let is_kept = kept.iter().any(|kept| *kept == leaf || *kept == as_stored(&leaf));
                assert!(is_kept, "{name}: {leaf} is lost");
            }
        });
    }
}

#[test]
fn unknown_evidence_types_are_kept() {
    for (name, entity_type) in [
        ("#microsoft.graph.security.quantumEvidence", "Quantum"),
        ("#microsoft.graph.security.alertEvidence", "Unknown"),
        ("#microsoft.graph.security.Evidence", "Unknown"),
        ("éEvidence", "é"),
        ("", "Unknown"),
    ] {
        let one = format!(r##"{{"@odata.type":"{name}","qubits":[1,2],"q@odata.type":"x"}}"##);
        rows_of(&page_of_evidence(&one), TENANT, |rows| {
            assert_eq!(rows.evidence[0].columns.entity_type.as_deref(), Some(entity_type));
            assert_eq!(rows.evidence[0].extra.as_deref(), Some(r##"{"qubits":[1,2]}"##));
        });
    }
}

#[test]
fn list_of_shared_types_equals_the_table() {
    use std::collections::BTreeSet;
    let table = super::super::properties::SHARED_TYPES.iter();
    let table: BTreeSet<String> = table.map(|shared| shared.entity_type.to_lowercase()).collect();
    let listed: BTreeSet<String> =
        super::super::super::SHARED_ENTITY_TYPES.map(str::to_owned).into();
    assert_eq!(listed, table);
}
