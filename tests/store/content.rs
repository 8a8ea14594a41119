//! Content of incidents: the documented sample field by field, and everything that differs from the documentation.

use incident_sync::store::runs::Outcome;
use serde_json::{Value, json};
use simulator::{Endpoint, ScriptedReply};

use crate::support::world::{World, id, spec};

const SAMPLE: &str = include_str!("../data/defender_docs_list_incidents.json");

/// All rows of a query as JSON, nulls left out.
async fn rows(world: &World, query: &str) -> Value {
    let query = format!(
        "SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(q))), '[]')::text FROM ({query}) q"
    );
    let text: String =
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(world.pool()).await.unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one sequence of steps")]
async fn documented_incidents_are_stored_field_by_field() {
    let world = World::of(0).await;
    world.service().add_documented_sample(id(1), SAMPLE);
    world.successful_run().await;
    let incidents =
        "SELECT incident_id, incident_name, created_time, last_update_time, assigned_to, classification, determination,
        status, severity, tags, redirect_incident_id, incident_uri FROM defender.incidents ORDER BY 1";
    let common = json!({ "classification": "Unknown", "determination": "NotAvailable", "status": "Active", "tags": [] });
    let incident = |id: i64, name: &str, created: &str, updated: &str, severity: &str| {
        let mut row = common.clone();
        row["incident_id"] = id.into();
        row["incident_name"] = name.into();
        row["created_time"] = created.into();
        row["last_update_time"] = updated.into();
        row["severity"] = severity.into();
        row
    };
    let expected = json!([
        incident(
            924_518,
            "Email reported by user as malware or phish",
            "2020-09-06T12:07:55.136666+00:00",
            "2020-09-06T12:07:55.32+00:00",
            "Informational"
        ),
        incident(
            924_521,
            "'Mimikatz' hacktool was detected on one endpoint",
            "2020-09-06T12:18:03.626666+00:00",
            "2020-09-06T12:18:03.81+00:00",
            "Low"
        ),
        incident(
            924_565,
            "Ransomware activity",
            "2020-09-06T14:46:57.073333+00:00",
            "2020-09-06T14:46:57.29+00:00",
            "Medium"
        ),
    ]);
    assert_eq!(rows(&world, incidents).await, expected);

    let alerts = "SELECT alert_id, incident_id, service_source, creation_time, last_updated_time, first_activity, title, category, status,
        severity, investigation_state, detection_source, assigned_to, threat_family_name, mitre_techniques, length(description) AS about
        FROM defender.alerts ORDER BY alert_id";
    let expected = json!([
        { "alert_id": "caD70CFEE2-1F54-32DB-9988-3A868A1EBFAC", "incident_id": 924_565, "service_source": "MicrosoftCloudAppSecurity",
          "creation_time": "2020-09-06T14:46:55.718227+00:00", "last_updated_time": "2020-09-06T14:46:57.243333+00:00",
          "first_activity": "2020-09-04T05:22:59+00:00", "title": "Ransomware activity", "category": "Impact", "status": "New",
          "severity": "Medium", "investigation_state": "UnsupportedAlertType", "detection_source": "MCAS", "mitre_techniques": [], "about": 239 },
        { "alert_id": "da637349914833441527_393341063", "incident_id": 924_521, "service_source": "MicrosoftDefenderATP",
          "creation_time": "2020-09-06T12:18:03.328536+00:00", "last_updated_time": "2020-09-06T12:18:04.256666+00:00",
          "first_activity": "2020-09-06T12:15:07.727204+00:00", "title": "'Mimikatz' hacktool was detected", "category": "Malware", "status": "New",
          "severity": "Low", "investigation_state": "UnsupportedOs", "detection_source": "WindowsDefenderAv", "threat_family_name": "Mimikatz",
          "mitre_techniques": [], "about": 660 },
        { "alert_id": "faf8edc936-85f8-a603-b800-08d8525cf099", "incident_id": 924_518, "service_source": "OfficeATP",
          "creation_time": "2020-09-06T12:07:54.371664+00:00", "last_updated_time": "2020-09-06T12:37:40.88+00:00",
          "first_activity": "2020-09-06T12:04:00+00:00", "title": "Email reported by user as malware or phish", "category": "InitialAccess",
          "status": "InProgress", "severity": "Informational", "investigation_state": "Queued", "detection_source": "OfficeATP",
          "assigned_to": "Automation", "mitre_techniques": [], "about": 97 },
    ]);
    assert_eq!(rows(&world, alerts).await, expected);

    let device = json!([{
        "device_id": "24c222b0b60fe148eeece49ac83910cc6a7ef491", "device_dns_name": "user5cx.middleeast.corp.contoso.com",
        "os_platform": "WindowsServer2016", "version": "1607", "os_processor": "x64", "os_build": 14_393, "health_status": "Active",
        "risk_score": "High", "rbac_group_name": "WDATP-Ring0", "rbac_group_id": 9, "first_seen": "2020-02-06T14:16:01.933013+00:00",
        "alert_id": "da637349914833441527_393341063",
    }]);
    let devices = "SELECT a.alert_id, d.device_id, device_dns_name, os_platform, version, os_processor, os_build, health_status, risk_score,
        rbac_group_name, rbac_group_id, first_seen FROM defender.devices d JOIN defender.alert_devices a USING (tenant_id, device_id)";
    assert_eq!(rows(&world, devices).await, device);

    let evidence =
        "SELECT entity_type, sha1, file_name, file_path, ip_address, account_name, domain_name, user_sid, aad_user_id,
        user_principal_name, mailbox_display_name, mailbox_address, cluster_by, sender, recipient, subject, device_id
        FROM defender.evidence ORDER BY entity_type, concat(ip_address, user_principal_name, cluster_by)";
    let expected = json!([
        { "entity_type": "File", "sha1": "5de839186691aa96ee2ca6d74f0a38fb8d1bd6dd", "file_name": "Detector.UnitTests.dll",
          "file_path": "C:\\Agent\\_work\\_temp\\Deploy_SYSTEM 2020-09-06 12_14_54\\Out", "device_id": "24c222b0b60fe148eeece49ac83910cc6a7ef491" },
        { "entity_type": "Ip", "ip_address": "49.50.81.121" },
        { "entity_type": "Ip", "ip_address": "62.216.203.204" },
        { "entity_type": "MailBox", "user_principal_name": "testUser3@contoso.com", "mailbox_display_name": "test User3", "mailbox_address": "testUser3@contoso.com" },
        { "entity_type": "MailBox", "user_principal_name": "testUser4@contoso.com", "mailbox_display_name": "test User4", "mailbox_address": "test.User4@contoso.com" },
        { "entity_type": "MailCluster", "cluster_by": "BodyFingerprintBin1;P2SenderDomain;ContentType" },
        { "entity_type": "MailCluster", "cluster_by": "BodyFingerprintBin1;SenderIp;ContentType" },
        { "entity_type": "MailCluster", "cluster_by": "Subject;P2SenderDomain;ContentType" },
        { "entity_type": "MailCluster", "cluster_by": "Subject;SenderIp;ContentType" },
        { "entity_type": "MailMessage", "user_principal_name": "test.User4@contoso.com", "sender": "user.abc@mail.contoso.co.in",
          "recipient": "test.User4@contoso.com", "subject": "[EXTERNAL] Attention" },
        { "entity_type": "User", "account_name": "testUser2", "domain_name": "europe.corp.contoso",
          "user_sid": "S-1-5-21-1721254763-462695806-1538882281-4156657", "aad_user_id": "fc8f7484-f813-4db2-afab-bc1507913fb6",
          "user_principal_name": "testUser2@contoso.com" },
    ]);
    assert_eq!(rows(&world, evidence).await, expected);

    let comments =
        "SELECT incident_id, comment, created_by, created_time FROM defender.incident_comments";
    let expected = json!([{ "incident_id": 924_565, "comment": "test comment for docs", "created_by": "secop123@contoso.com",
        "created_time": "2021-01-26T01:00:37.840453+00:00" }]);
    assert_eq!(rows(&world, comments).await, expected);
    world.assert_settled().await;
}

/// An incident as raw JSON, with these members added.
fn raw(id: i64, inside: &str) -> String {
    format!(r#"{{"incidentId":{id},"lastUpdateTime":"2026-11-20T10:00:00Z"{inside}}}"#)
}

async fn pass_over(page: &[String]) -> World {
    let world = World::of(0).await;
    for (at, incident) in page.iter().enumerate() {
        let updated = "2026-11-20T10:00:00Z".parse().unwrap();
        world.service().add_raw(id(1), i64::try_from(at).unwrap() + 1, updated, incident);
    }
    let results = world.run().await;
    assert_eq!(results[0].outcome, Outcome::Ok, "{:?}", results[0].report.failure);
    let before = world.tuples().await;
    world.successful_run().await;
    assert_eq!(world.tuples().await, before, "a run without changes wrote something");
    world
}

#[tokio::test]
async fn odd_fields_do_not_reject_their_incident() {
    let world = pass_over(&[
        raw(1, r#","status":"Brandnew","severity":7,"newField":{"a":[1]},"tags":"none","createdTime":"0001-01-01T00:00:00Z""#),
        raw(2, ""),
        raw(3, r#","createdTime":"9999-12-31T23:59:59.9999999Z","incidentName":null,"alerts":[{"alertId":"a","entities":[{"entityType":"Robot","arms":2}],
            "devices":[{"mdatpDeviceId":"d"},{"mdatpDeviceId":"d","osBuild":"17"}],"creationTime":"2026-11-20T10:00:00.1234567Z"}]"#),
    ])
    .await;
    let incidents = "SELECT incident_id, status, severity, tags, created_time FROM defender.incidents ORDER BY 1";
    let expected = json!([
        { "incident_id": 1, "status": "Brandnew", "severity": "7" },
        { "incident_id": 2 },
        { "incident_id": 3, "created_time": "9999-12-31T23:59:59.999999+00:00" },
    ]);
    assert_eq!(rows(&world, incidents).await, expected);
    let evidence = "SELECT entity_type, e.extra, creation_time FROM defender.evidence e JOIN defender.alerts USING (tenant_id, alert_id)";
    let expected = json!([{ "entity_type": "Robot", "extra": { "arms": 2 }, "creation_time": "2026-11-20T10:00:00.123456+00:00" }]);
    assert_eq!(rows(&world, evidence).await, expected);
    assert_eq!(world.number("SELECT count(*) FROM defender.alert_devices").await, 1);
    assert_eq!(
        world.number("SELECT max(mistyped_fields)::bigint FROM defender.sync_runs").await,
        2
    );
}

#[tokio::test]
async fn unknown_keys_and_devices_without_id_are_kept() {
    let alert = r#"{"alertId":"a","loggedOnUsers":[{"accountName":"user2"}],"relatedUser":null,"machineId":"ff",
        "devices":[{"mdatpDeviceId":null,"deviceDnsName":null},{"deviceDnsName":"pc1"},{"mdatpDeviceId":"d"}]}"#;
    let world = pass_over(&[
        raw(1, &format!(r#","threatScore":7,"note":null,"alerts":[{alert}]"#)),
        raw(2, r#","alerts":[{"alertId":"b"}]"#),
    ])
    .await;
    let shown = "SELECT incident_id, i.extra AS incident, a.extra AS alert, a.devices_without_id, a.device_count
        FROM reporting.incidents i JOIN reporting.alerts a USING (tenant_id, incident_id) ORDER BY 1";
    let expected = json!([
        { "incident_id": 1, "incident": { "threatScore": 7 }, "devices_without_id": 2, "device_count": 1,
            "alert": { "loggedOnUsers": [{ "accountName": "user2" }], "machineId": "ff" } },
        { "incident_id": 2, "devices_without_id": 0, "device_count": 0 },
    ]);
    assert_eq!(rows(&world, shown).await, expected);
}

#[tokio::test]
async fn text_refused_by_postgres_is_replaced_everywhere() {
    let bad = r"x\u0000\ud800y";
    let inside = format!(
        r#","incidentName":"{bad}","tags":["{bad}"],"{bad}":"{bad}","comments":[{{"comment":"{bad}"}}],
        "alerts":[{{"alertId":"{bad}","entities":[{{"url":"{bad}","{bad}":"{bad}"}}],"devices":[{{"mdatpDeviceId":"{bad}","vmMetadata":{{"id":"{bad}"}}}}]}}]"#
    );
    let world = pass_over(&[raw(1, &inside)]).await;
    let found = "SELECT count(*) FROM defender.incidents i JOIN defender.alerts a USING (tenant_id, incident_id)
        JOIN defender.evidence e USING (tenant_id, alert_id) JOIN defender.devices d USING (tenant_id)
        JOIN defender.incident_comments c USING (tenant_id, incident_id) JOIN defender.incident_payloads p USING (tenant_id, incident_id)
        WHERE i.incident_name = E'x\\uFFFD\\uFFFDy' AND i.tags = ARRAY[i.incident_name] AND a.alert_id = i.incident_name
        AND e.url = i.incident_name AND e.extra->>i.incident_name = i.incident_name AND d.vm_metadata->>'id' = i.incident_name
        AND c.comment = i.incident_name AND p.payload->>'incidentName' = i.incident_name";
    assert_eq!(world.number(found).await, 1);
}

#[tokio::test]
async fn payload_and_hash_are_those_of_the_served_text() {
    // What another form of the same JSON would not keep: order, repeated keys, spaces, spellings of numbers and letters.
    let inside = ",\n  \"zeta\" : 1.50E+1, \"alpha\":\"\\u0041\\/\", \"zeta\":[ ], \"number\":12345678901234567890.0";
    let world = pass_over(&[raw(1, inside), raw(2, r#","name":"x\u0000""#)]).await;
    let served = "SELECT payload::text FROM defender.incident_payloads WHERE incident_id = 1";
    let served: String = sqlx::query_scalar(served).fetch_one(world.pool()).await.unwrap();
    assert_eq!(served, raw(1, inside));
    let differ = "SELECT incident_id FROM defender.incident_payloads
        WHERE content_hash <> substr(sha256(convert_to(payload::text, 'UTF8')), 1, 16)";
    assert_eq!(rows(&world, differ).await, json!([{ "incident_id": 2 }]), "only NUL was replaced");
}

#[tokio::test]
async fn unstorable_incident_is_quarantined_page_is_stored() {
    let deep = format!(r#","deep":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
    let world = pass_over(&[
        raw(1, ""),
        raw(2, r#","number":1e140000"#),
        raw(3, &deep),
        r#"{"lastUpdateTime":"2026-11-20T10:00:00Z","incidentName":"no id"}"#.to_owned(),
        raw(5, ""),
    ])
    .await;
    assert_eq!(
        rows(&world, "SELECT incident_id FROM defender.incidents ORDER BY 1").await,
        json!([{ "incident_id": 1 }, { "incident_id": 5 }])
    );
    let rejected =
        rows(&world, "SELECT incident_id FROM defender.rejected_payloads ORDER BY 1").await;
    assert_eq!(rejected, json!([{ "incident_id": 2 }, { "incident_id": 3 }, {}]));
    // The next version of a rejected incident decodes, and ends its quarantine.
    let updated = "2026-11-23T11:00:00Z";
    world.service().add_raw(
        id(1),
        2,
        updated.parse().unwrap(),
        &format!(r#"{{"incidentId":2,"lastUpdateTime":"{updated}"}}"#),
    );
    world.successful_run().await;
    assert_eq!(
        world.number("SELECT count(*) FROM defender.rejected_payloads WHERE incident_id = 2").await,
        0
    );
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 3);
}

#[tokio::test]
async fn incident_twice_in_one_page_is_stored_once() {
    let world = World::of(0).await;
    let older = r#"{"incidentId":1,"lastUpdateTime":"2026-11-20T10:00:00Z","status":"Active"}"#;
    let newer = r#"{"incidentId":1,"lastUpdateTime":"2026-11-20T10:00:01Z","status":"Resolved"}"#;
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::Body(format!("{{\"value\":[{newer},{older}]}}"))],
    );
    world.successful_run().await;
    assert_eq!(
        rows(&world, "SELECT status FROM defender.incidents").await,
        json!([{ "status": "Resolved" }])
    );
}

#[tokio::test]
async fn older_version_never_replaces_a_newer_one() {
    let world = World::of(0).await;
    let version = |second: u32, status: &str, alerts: &str| {
        let updated = format!("2026-11-20T10:00:0{second}Z");
        let incident = format!(
            r#"{{"incidentId":1,"lastUpdateTime":"{updated}","status":"{status}","alerts":[{alerts}]}}"#
        );
        vec![ScriptedReply::Body(format!("{{\"value\":[{incident}]}}"))]
    };
    let two = r#"{"alertId":"a"},{"alertId":"b"}"#;
    for (second, status, alerts) in
        [(5, "Active", two), (7, "Resolved", r#"{"alertId":"a"}"#), (6, "InProgress", two)]
    {
        world.service().script(id(1), Endpoint::Incidents, version(second, status, alerts));
        world.successful_run().await;
    }
    assert_eq!(
        rows(&world, "SELECT status FROM defender.incidents").await,
        json!([{ "status": "Resolved" }])
    );
    // An alert that its incident no longer lists is kept, with the time when it was last listed.
    let seen = "SELECT alert_id, is_listed, CASE WHEN NOT is_listed THEN last_seen END AS last_seen
        FROM defender.alerts ORDER BY 1";
    let expected = json!([{ "alert_id": "a", "is_listed": true },
        { "alert_id": "b", "is_listed": false, "last_seen": "2026-11-20T10:00:05+00:00" }]);
    assert_eq!(rows(&world, seen).await, expected);
}

#[tokio::test]
async fn dropped_evidence_and_devices_are_removed() {
    let world = World::of(0).await;
    let version = |second: u32, alert: &str| {
        let incident = format!(
            r#"{{"incidentId":1,"lastUpdateTime":"2026-11-20T10:00:0{second}Z","alerts":[{{"alertId":"a",{alert}}}]}}"#
        );
        vec![ScriptedReply::Body(format!("{{\"value\":[{incident}]}}"))]
    };
    let before = r#""devices":[{"mdatpDeviceId":"d1"},{"mdatpDeviceId":"d2"}],"entities":[{"url":"u1","verdict":"Unknown"},{"url":"u2"}]"#;
    let after = r#""devices":[{"mdatpDeviceId":"d2"}],"entities":[{"url":"u1","verdict":"Malicious"},{"url":"u3"}]"#;
    for (second, alert) in [(1, before), (2, after)] {
        world.service().script(id(1), Endpoint::Incidents, version(second, alert));
        world.successful_run().await;
    }
    let evidence = rows(&world, "SELECT url, verdict FROM defender.evidence ORDER BY 1").await;
    assert_eq!(evidence, json!([{ "url": "u1", "verdict": "Malicious" }, { "url": "u3" }]));
    assert_eq!(
        rows(&world, "SELECT device_id FROM defender.alert_devices").await,
        json!([{ "device_id": "d2" }])
    );
    assert_eq!(world.number("SELECT count(*) FROM defender.devices").await, 2);
}

#[tokio::test]
async fn foreign_incident_parks_tenant_and_stores_nothing() {
    let world = World::of(0).await;
    let uri = format!("https://security.microsoft.com/incidents/1?tid={}", id(2));
    let page = format!(
        r#"{{"value":[{},{}]}}"#,
        raw(1, ""),
        raw(2, &format!(r#","incidentUri":"{uri}""#))
    );
    world.service().script(id(1), Endpoint::Incidents, vec![ScriptedReply::Body(page)]);
    let results = world.run().await;
    assert_eq!(results[0].outcome, Outcome::Parked);
    assert_eq!(results[0].diagnosis.as_ref().unwrap().class.as_str(), "security");
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 0);
}

#[tokio::test]
async fn large_pages_are_read_whole_one_by_one() {
    let world = World::with((1..=4).map(|at| spec(at, 0)).collect()).await;
    let long = "x".repeat(60_000);
    for tenant in 1..=4 {
        for incident in 1..=170 {
            let updated = format!("2026-11-20T{:02}:{:02}:00Z", 10 + incident / 60, incident % 60);
            let text = format!(
                r#"{{"incidentId":{incident},"lastUpdateTime":"{updated}","incidentName":"{long}","alerts":[]}}"#
            );
            world.service().add_raw(id(tenant), incident, updated.parse().unwrap(), &text);
        }
    }
    tokio::time::timeout(std::time::Duration::from_secs(50), world.successful_run())
        .await
        .expect("no page waits endlessly");
    world.assert_truth().await;
    let calls = world.service().calls(id(1));
    let calls = calls.iter().filter(|call| call.endpoint == Endpoint::Incidents).count();
    assert!(calls >= 4, "a page of six megabytes is asked for twice: {calls}");
}

const REDIRECTS: &str = include_str!("../data/cases/redirects.json");
const ODD_ENTITIES: &str = include_str!("../data/cases/odd_entities.json");

#[tokio::test]
async fn redirect_to_zero_is_no_merge() {
    let world = World::of(0).await;
    world.service().add_documented_sample(id(1), REDIRECTS);
    world.successful_run().await;
    let merged =
        "SELECT incident_id, merged_into_incident_id AS target FROM reporting.incidents ORDER BY 1";
    let expected = json!([
        {"incident_id": 60, "target": 62},
        {"incident_id": 61, "target": 62},
        {"incident_id": 63},
        {"incident_id": 64},
        {"incident_id": 65},
    ]);
    assert_eq!(rows(&world, merged).await, expected);
    let open = rows(&world, "SELECT incident_id FROM reporting.open_incidents").await;
    assert_eq!(open, json!([{"incident_id": 64}]));
    world.assert_truth().await;
}

#[tokio::test]
async fn elements_that_are_no_objects_are_counted() {
    let world = World::of(0).await;
    world.service().add_documented_sample(id(1), ODD_ENTITIES);
    world.successful_run().await;
    let alert = "SELECT count(*) FROM defender.evidence";
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 2);
    assert!(world.number(alert).await >= 7);
    // null, 7, "x" and [].
    let left_out = "SELECT sum(mistyped_fields)::bigint FROM defender.sync_runs";
    assert_eq!(world.number(left_out).await, 4);
    let addresses = "SELECT count(*) FROM reporting.evidence WHERE ip_address = '10.0.0.300'";
    assert_eq!(world.number(addresses).await, 1);
}
