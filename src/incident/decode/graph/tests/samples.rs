use super::*;

#[test]
fn documented_incident_fills_its_columns() {
    rows_of(DOCUMENTED, DOCUMENTED_TENANT, |rows| {
        assert_eq!((rows.incidents.len(), rows.rejected.len()), (1, 0));
        assert_eq!(rows.mistyped, Vec::<&str>::new());
        let incident = &rows.incidents[0];
        assert_eq!(incident.incident_id, 2_972_395);
        assert_eq!(incident.last_update_time.to_rfc3339(), "2021-09-30T09:35:45.113333+00:00");
        let mut columns = shown(&incident.columns);
        let description = columns.remove(9);
        assert!(description.starts_with("description=Microsoft observed Raspberry Robin"));
        assert_eq!(
            columns,
            [
                "incident_uri=https://security.microsoft.com/incidents/2972395?tid=b3c1b5fc-828c-45fa-a1e1-10d74f6d6e9c",
                "incident_name=Multi-stage incident involving Initial access & Command and control on multiple endpoints reported by multiple sources",
                "created_time=2021-08-13T08:43:35.553333Z",
                "assigned_to=KaiC@contoso.onmicrosoft.com",
                "classification=TruePositive",
                "determination=MultiStagedAttack",
                "status=Active",
                "severity=Medium",
                "tags=Demo",
                "system_tags=Defender Experts",
            ]
        );
        assert_eq!(rows.comments.len(), 1);
        assert_eq!(
            shown(&rows.comments[0].columns),
            [
                "comment=Demo incident",
                "created_by=DavidS@contoso.onmicrosoft.com",
                "created_time=2021-09-30T12:07:37.275699Z",
            ]
        );
    });
}

#[test]
fn documented_upper_case_values_stay() {
    rows_of(DOCUMENTED_PLAIN, DOCUMENTED_TENANT, |rows| {
        let columns = shown(&rows.incidents[0].columns);
        for expected in [
            "classification=TruePositive",
            "determination=MultiStagedAttack",
            "status=Active",
            "severity=Medium",
            "tags=Demo",
        ] {
            assert!(columns.iter().any(|column| column == expected), "{expected}");
        }
        assert_eq!(
            rows.comments[0].columns.created_by.as_deref(),
            Some("DavidS@contoso.onmicrosoft.com")
        );
    });
}

#[test]
fn documented_alert_fills_its_columns() {
    rows_of(DOCUMENTED, DOCUMENTED_TENANT, |rows| {
        let alert = &rows.alerts[0];
        assert_eq!(alert.alert_id, "da637551227677560813_-961444813");
        assert_eq!(alert.incident_id, 2_972_395, "the incident that lists it");
        let mut columns = shown(&alert.columns);
        columns.retain(|column| {
            !column.starts_with("description=")
                && !column.starts_with("recommended_actions=Collect")
        });
        assert_eq!(
            columns,
            [
                "provider_alert_id=da637551227677560813_-961444813",
                "service_source=MicrosoftDefenderForEndpoint",
                "detection_source=WindowsDefenderAv",
                "detector_id=e0da400f-affd-43ef-b1d5-afc2eb6f2756",
                "creation_time=2021-04-27T12:19:27.721130Z",
                "last_updated_time=2021-05-02T14:19:01.326666Z",
                "first_activity=2021-04-26T07:45:50.116Z",
                "last_activity=2021-05-02T07:56:58.222Z",
                "title=Suspicious execution of hidden file",
                "category=DefenseEvasion",
                "status=New",
                "severity=Low",
                "classification=Unknown",
                "determination=NotAvailable",
                "mitre_techniques=T1564.001",
                "alert_web_url=https://security.microsoft.com/alerts/da637551227677560813_-961444813?tid=b3c1b5fc-828c-45fa-a1e1-10d74f6d6e9c",
            ]
        );
    });
}

#[test]
fn documented_device_fills_its_columns() {
    rows_of(DOCUMENTED, DOCUMENTED_TENANT, |rows| {
        assert_eq!(rows.devices[0].device_id, "73e7e2de709dff64ef64b1d0c30e67fab63279db");
        assert_eq!(rows.alert_devices.len(), 1);
        let mut columns = shown(&rows.devices[0].columns);
        let machine: Json =
            serde_json::from_str(columns.pop().unwrap().strip_prefix("vm_metadata=").unwrap())
                .unwrap();
        assert_eq!(machine["vmId"], "ca1b0d41-5a3b-4d95-b48b-f220aed11d78");
        assert_eq!(
            columns,
            [
                "device_dns_name=tempDns",
                "os_platform=Windows10",
                "version=Other",
                "os_build=22424",
                "health_status=Active",
                "risk_score=Medium",
                "rbac_group_id=75",
                "rbac_group_name=UnassignedGroup",
                "first_seen=2020-09-12T07:28:32.432175Z",
                "tags=Test Machine",
                "defender_av_status=Unknown",
                "onboarding_status=Onboarded",
            ]
        );
    });
}

#[test]
fn documented_evidence_fills_its_columns() {
    rows_of(DOCUMENTED, DOCUMENTED_TENANT, |rows| {
        let evidence = evidence_by_type(rows);
        assert_eq!(evidence.keys().collect::<Vec<_>>(), ["File", "Process", "Registry"]);
        let (columns, extra) = &evidence["File"];
        assert_eq!(
            columns[..],
            [
                "evidence_creation_time=2021-04-27T12:19:27.721130Z",
                "verdict=Unknown",
                "remediation_status=None",
                "sha1=5f1e8acedc065031aad553b710838eb366cfee9a",
                "sha256=8963a19fb992ad9a76576c5638fd68292cffb9aaac29eb8285f9abf6196a7dec",
                "file_name=MsSense.exe",
                r"file_path=C:\Program Files\temp",
                "device_id=73e7e2de709dff64ef64b1d0c30e67fab63279db",
                "roles=",
            ]
        );
        assert_eq!(
            *extra,
            serde_json::json!({
                "detectionStatus": "detected",
                "detailedRoles": ["Referred in command line"],
                "fileDetails": {"fileSize": 6_136_392, "filePublisher": "Microsoft Corporation"},
            })
        );
        let (columns, extra) = &evidence["Process"];
        assert_eq!(
            columns[3..],
            [
                "sha1=5f1e8acedc065031aad553b710838eb366cfee9a",
                "sha256=8963a19fb992ad9a76576c5638fd68292cffb9aaac29eb8285f9abf6196a7dec",
                "file_name=MsSense.exe",
                r"file_path=C:\Program Files\temp",
                "process_id=4780",
                "process_command_line=\"MsSense.exe\"",
                "process_creation_time=2021-08-12T12:43:19.077257Z",
                "parent_process_id=668",
                "parent_process_creation_time=2021-08-12T07:39:09.090923Z",
                "account_name=SYSTEM",
                "domain_name=NT AUTHORITY",
                "user_sid=S-1-5-18",
                "device_id=73e7e2de709dff64ef64b1d0c30e67fab63279db",
                "roles=",
            ]
        );
        assert_eq!(extra["parentProcessImageFile"]["fileName"], "services.exe");
        let (columns, extra) = &evidence["Registry"];
        assert_eq!(
            columns[3..],
            [
                "registry_hive=HKEY_LOCAL_MACHINE",
                r"registry_key=SYSTEM\CONTROLSET001\CONTROL\WMI\AUTOLOGGER\SENSEAUDITLOGGER",
                "roles=",
            ]
        );
        assert_eq!(*extra, Json::Null);
    });
}

#[test]
fn wire_incident_fills_the_new_columns() {
    rows_of(WIRE, TENANT, |rows| {
        assert_eq!((rows.incidents.len(), rows.rejected.len()), (3, 0));
        assert_eq!(rows.mistyped, Vec::<&str>::new());
        let incident = rows.incidents.iter().find(|row| row.incident_id == 81).unwrap();
        assert_eq!(
            shown(&incident.columns),
            [
                "incident_uri=https://security.microsoft.com/incident2/81/overview?tid=11111111-2222-3333-4444-555555555555",
                "incident_name=Email reported by user as malware or phish",
                "created_time=2026-07-22T18:37:11.523333Z",
                "classification=Unknown",
                "determination=NotAvailable",
                "status=Resolved",
                "severity=Low",
                "tags=",
                "resolving_comment=Incident automatically resolved as all alerts in the incident were resolved. Last resolved alert ID: fa00000000-0000-4000-8000-0000000000a1",
                "last_modified_by=Microsoft 365 Defender-IncidentCreation",
                "priority_score=18",
                "system_tags=Credential Phish",
            ]
        );
        let merged = rows.incidents.iter().find(|row| row.incident_id == 12_345).unwrap();
        assert_eq!(merged.columns.redirect_incident_id, Some(1_234));
        assert_eq!(merged.columns.status.as_deref(), Some("Redirected"));
        let comment = &rows.comments[0].columns;
        assert_eq!(comment.created_by.as_deref(), Some("David S"));
    });
}

#[test]
fn wire_alert_fills_the_new_columns() {
    rows_of(WIRE, TENANT, |rows| {
        let alert = rows.alerts.iter().find(|row| row.alert_id.starts_with("fa")).unwrap();
        assert_eq!(
            shown(&alert.columns),
            [
                "provider_alert_id=00000000-0000-4000-8000-0000000000a1",
                "service_source=MicrosoftDefenderForOffice365",
                "detection_source=OfficeATP",
                "detector_id=00000000-0000-4000-8000-0000000000e1",
                "creation_time=2026-07-22T18:37:11.333333Z",
                "last_updated_time=2026-07-22T18:39:50.563333Z",
                "resolved_time=2026-07-22T18:37:11.333333Z",
                "first_activity=2026-07-22T18:36:00Z",
                "last_activity=2026-07-22T18:37:00Z",
                "title=Email reported by user as malware or phish",
                "description=Email reported by user as malware or phish.",
                "category=InitialAccess",
                "status=Resolved",
                "severity=Low",
                "investigation_state=Benign",
                "assigned_to=Suppression rule",
                "mitre_techniques=T1566",
                "alert_web_url=https://security.microsoft.com/alerts/fa00000000-0000-4000-8000-0000000000a1?tid=11111111-2222-3333-4444-555555555555",
                "recommended_actions=",
                "product_name=Microsoft Defender for Office 365",
                "categories=PreAttack|InitialAccess|Probing",
                "system_tags=",
            ]
        );
    });
}

#[test]
fn wire_device_without_id_stays_evidence() {
    rows_of(WIRE, TENANT, |rows| {
        assert_eq!(rows.devices.len(), 1);
        assert!(rows.alert_devices.iter().all(|(alert, _)| alert.starts_with("da")));
        let evidence = evidence_by_type(rows);
        assert_eq!(
            evidence["Device"].0,
            [
                "evidence_creation_time=2025-05-25T21:08:56.450Z",
                "verdict=Suspicious",
                "remediation_status=None",
                "roles="
            ]
        );
        let mailbox = &evidence["Mailbox"];
        assert_eq!(mailbox.0[3..], ["mailbox_address=megan@contoso.example", "roles="]);
        assert_eq!(mailbox.1, Json::Null, "empty texts say nothing");
        let mail = &evidence["MailMessage"];
        assert!(mail.0.contains(&"sender=billing@fabrikam.example".to_owned()));
        assert_eq!(mail.1["p2Sender"]["emailAddress"], "billing@fabrikam.example");
        assert_eq!(mail.1["urls"][0], "https://fabrikam.example/x");
        assert_eq!(evidence["Registry"].1["registryValueName"], "Updater");
    });
}
