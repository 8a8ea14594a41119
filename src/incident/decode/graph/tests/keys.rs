use super::*;

/// One entity of each type as both APIs serve it.
const BOTH: [(&str, &str); 11] = [
    (
        r##"{"entityType":"User","accountName":"megan","domainName":"CONTOSO","userSid":"S-1-5-21-1","aadUserId":"id","userPrincipalName":"megan@contoso.example""##,
        r##"{"@odata.type":"#microsoft.graph.security.userEvidence","userAccount":{"accountName":"megan","domainName":"CONTOSO","userSid":"S-1-5-21-1","azureAdUserId":"id","userPrincipalName":"megan@contoso.example","displayName":"Megan"}"##,
    ),
    (
        r##"{"entityType":"Ip","ipAddress":"::1""##,
        r##"{"@odata.type":"#microsoft.graph.security.ipEvidence","ipAddress":"::1","countryLetterCode":"NL""##,
    ),
    (
        r##"{"entityType":"Url","url":"https://a.example/""##,
        r##"{"@odata.type":"#microsoft.graph.security.urlEvidence","url":"https://a.example/""##,
    ),
    (
        r##"{"entityType":"File","sha1":"1","sha256":"2","fileName":"f","filePath":"p","deviceId":"d""##,
        r##"{"@odata.type":"#microsoft.graph.security.fileEvidence","detectionStatus":"detected","fileDetails":{"sha1":"1","sha256":"2","fileName":"f","filePath":"p","md5":"5"},"mdeDeviceId":"d""##,
    ),
    (
        r##"{"entityType":"Process","sha1":"1","sha256":"2","fileName":"f","filePath":"p","processId":3,"processCommandLine":"f -x","processCreationTime":"2026-01-01T00:00:01.1234567Z","parentProcessId":4,"parentProcessCreationTime":"2026-01-01T00:00:02Z","accountName":"a","domainName":"n","userSid":"s","deviceId":"d""##,
        r##"{"@odata.type":"#microsoft.graph.security.processEvidence","imageFile":{"sha1":"1","sha256":"2","fileName":"f","filePath":"p"},"processId":3,"processCommandLine":"f -x","processCreationDateTime":"2026-01-01T00:00:01.1234567Z","parentProcessId":4,"parentProcessCreationDateTime":"2026-01-01T00:00:02Z","userAccount":{"accountName":"a","domainName":"n","userSid":"s"},"parentProcessImageFile":{"fileName":"g"},"mdeDeviceId":"d""##,
    ),
    (
        r##"{"entityType":"Mailbox","mailboxAddress":"m@a.example","mailboxDisplayName":"M","userPrincipalName":"m@a.example","userSid":"s""##,
        r##"{"@odata.type":"#microsoft.graph.security.mailboxEvidence","primaryAddress":"m@a.example","displayName":"M","upn":"","userAccount":{"userPrincipalName":"m@a.example","userSid":"s"}"##,
    ),
    (
        r##"{"entityType":"MailMessage","sender":"s@a.example","recipient":"r@a.example","subject":"S","internetMessageId":"<i>","deliveryAction":"Delivered""##,
        r##"{"@odata.type":"#microsoft.graph.security.analyzedMessageEvidence","p1Sender":{"emailAddress":"bounce@a.example"},"p2Sender":{"emailAddress":"s@a.example"},"recipientEmailAddress":"r@a.example","subject":"S","internetMessageId":"<i>","deliveryAction":"Delivered","urn":"u""##,
    ),
    (
        r##"{"entityType":"MailCluster","clusterBy":"Subject","clusterByValue":"S","emailCount":3"##,
        r##"{"@odata.type":"#microsoft.graph.security.mailClusterEvidence","clusterBy":"Subject","clusterByValue":"S","emailCount":3,"query":"q""##,
    ),
    (
        r##"{"entityType":"Registry","registryHive":"H","registryKey":"K""##,
        r##"{"@odata.type":"#microsoft.graph.security.registryKeyEvidence","registryHive":"H","registryKey":"K""##,
    ),
    (
        r##"{"entityType":"Registry","registryHive":"H","registryKey":"K","registryValue":"V","registryValueType":"String","deviceId":"d""##,
        r##"{"@odata.type":"#microsoft.graph.security.registryValueEvidence","registryHive":"H","registryKey":"K","registryValue":"V","registryValueType":"String","registryValueName":"N","mdeDeviceId":"d""##,
    ),
    (
        r##"{"entityType":"SecurityGroup","securityGroupId":"g","securityGroupName":"G""##,
        r##"{"@odata.type":"#microsoft.graph.security.securityGroupEvidence","securityGroupId":"g","displayName":"G","sid":"s""##,
    ),
];

#[test]
fn shared_entity_has_one_key_in_both_sources() {
    for (legacy, graph) in BOTH {
        let legacy = format!(
            r##"{{"value":[{{"incidentId":1,"lastUpdateTime":"2026-01-01T00:00:00Z","alerts":[{{"alertId":"a","entities":[
                {legacy},"evidenceCreationTime":"2026-01-01T00:00:03.7654321Z","verdict":"Suspicious","remediationStatus":"Active"}}]}}]}}]}}"##
        );
        let graph = page_of_evidence(&format!(
            r##"{graph},"createdDateTime":"2026-01-01T00:00:03.7654321Z","verdict":"suspicious","remediationStatus":"active","roles":["attacker"],"tags":["t"]}}"##
        ));
        let legacy = raw_elements(Source::Defender, &legacy);
        let legacy = page_rows(tenant(TENANT), Source::Defender, &legacy).unwrap();
        rows_of(&graph, TENANT, |graph| {
            assert_eq!((graph.evidence.len(), &graph.mistyped[..]), (1, &[][..]));
            let mut columns = shown(&graph.evidence[0].columns);
            assert_eq!(columns.pop().as_deref(), Some("roles=Attacker"));
            assert_eq!(columns, shown(&legacy.evidence[0].columns));
            assert_eq!(graph.evidence[0].evidence_hash, legacy.evidence[0].evidence_hash);
        });
    }
}

#[test]
fn comment_has_one_key_in_both_sources() {
    let legacy = r##"{"value":[{"incidentId":1,"lastUpdateTime":"2026-01-01T00:00:00Z",
        "comments":[{"comment":"c","createdBy":"a@b.example","createdTime":"2026-01-01T00:00:03.7654321Z"}]}]}"##;
    let legacy = raw_elements(Source::Defender, legacy);
    let legacy = page_rows(tenant(TENANT), Source::Defender, &legacy).unwrap();
    let graph = r##"{"value":[{"id":"1","lastUpdateDateTime":"2026-01-01T00:00:00Z",
        "comments":[{"comment":"c","createdByDisplayName":"a@b.example","createdDateTime":"2026-01-01T00:00:03.7654329Z"}]}]}"##;
    rows_of(graph, TENANT, |graph| {
        assert_eq!(graph.comments[0].comment_hash, legacy.comments[0].comment_hash);
    });
}

const VALUE: &str = r##""@odata.type":"#microsoft.graph.security.registryValueEvidence","registryHive":"H","registryKey":"K","registryValue":"V""##;

#[test]
fn entities_differing_only_in_extra_are_two_rows() {
    let pairs = [
        (VALUE, r##""registryValueName":"a""##, r##""registryValueName":"b""##),
        // The state of a device does not identify it, but is all that distinguishes these two.
        (
            r##""@odata.type":"#microsoft.graph.security.deviceEvidence","mdeDeviceId":null"##,
            r##""lastIpAddress":"192.0.2.1""##,
            r##""lastIpAddress":"192.0.2.2""##,
        ),
        (
            r##""@odata.type":"#microsoft.graph.security.fileHashEvidence","algorithm":"md5""##,
            r##""value":"1""##,
            r##""value":"2""##,
        ),
    ];
    for (same, first, second) in pairs {
        let page =
            page_of_evidence(&format!("{{{same},{first}}},{{{same},{second}}},{{{same},{first}}}"));
        rows_of(&page, TENANT, |rows| assert_eq!(rows.evidence.len(), 2, "{same}"));
    }
    rows_of(
        &page_of_evidence(&format!(r##"{{{VALUE},"registryValueName":"a"}}"##)),
        TENANT,
        |rows| {
            let columns = &rows.evidence[0].columns;
            assert_eq!(rows.evidence[0].evidence_hash, hash::evidence_hash(columns, &[]));
        },
    );
}

#[test]
fn entity_state_is_not_part_of_key() {
    let pod = |state: &str, device: &str| {
        format!(
            r##"{{"@odata.type":"#microsoft.graph.security.hostLogonSessionEvidence","sessionId":"s",{state},
                "host":{{"@odata.type":"#microsoft.graph.security.deviceEvidence","deviceDnsName":"h",{device}}}}}"##
        )
    };
    let key = |evidence: &str| {
        let mut key = [0; 16];
        rows_of(&page_of_evidence(evidence), TENANT, |rows| key = rows.evidence[0].evidence_hash);
        key
    };
    let before = key(&pod(
        r##""verdict":"unknown","roles":[],"tags":null,"detailedRoles":["a"],"remediationStatusDetails":"x""##,
        r##""riskScore":"low","verdict":"unknown","loggedOnUsers":[{"accountName":"a"}]"##,
    ));
    let after = key(&pod(
        r##""verdict":"malicious","roles":["source"],"tags":["t"],"detailedRoles":[],"endUtcDateTime":"2026-01-01T00:00:00Z""##,
        r##""loggedOnUsers":[],"verdict":"malicious","riskScore":"high""##,
    ));
    assert_eq!(before, after);
    let other = key(&pod(r##""verdict":"unknown""##, r##""hostName":"other""##));
    assert_ne!(before, other);
}
