use chrono::TimeDelta;

use super::tenant::AUDIENCES;
use super::*;
use crate::doctor::network::{CertificateFacts, HostFacts};
use crate::doctor::tenant::{TenantProbe, TokenFacts};
use crate::doctor::{ConfigurationFacts, DatabaseFacts};
use crate::entra::claims::TokenCheck;
use crate::entra::credential::CredentialId;
use crate::store::feed::{Feed, FeedHolder, ReaderLimits};
use crate::store::inspect::{Inspection, SchemaState};
use crate::store::isolation::TableIsolation;
use crate::tenant::Source;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn facts(hosts: Vec<Host>, inspection: Inspection, tenants: Vec<TenantProbe>) -> Facts {
    let file = "incident-sync.toml".to_owned();
    let open_to_writers = Vec::new();
    let closed_to_service = Vec::new();
    let warnings = Vec::new();
    let configuration = ConfigurationFacts {
        file,
        tenants: 1,
        open_to_writers,
        closed_to_service,
        warnings,
        missing: None,
    };
    let database = DatabaseFacts {
        server: "postgres://db".to_owned(),
        looked_up: None,
        connected: None,
        inspection: Ok(inspection),
    };
    let (expiries, egress, retirement) = (Vec::new(), Egress::Direct, None);
    Facts { configuration, expiries, egress, hosts, database, tenants, retirement }
}

fn host(ahead: Option<i64>, days: i64) -> Host {
    let certificate = Some(CertificateFacts {
        issuer: "Company CA".to_owned(),
        ends: now() + TimeDelta::days(days),
    });
    let reached = Some(Ok(HostFacts { ahead, certificate }));
    Host {
        origin: "https://login.example".to_owned(),
        is_tls: true,
        looked_up: Some(Ok(2)),
        reached,
    }
}

fn alerts_table(is_forced: bool) -> TableIsolation {
    TableIsolation { table: "alerts".to_owned(), is_forced, missing_policies: Vec::new() }
}

fn good_database() -> Inspection {
    Inspection {
        version: 150_014,
        version_name: "15.14".to_owned(),
        encoding: "UTF8".to_owned(),
        is_standby: false,
        read_only_by: None,
        name: "sync".to_owned(),
        user: "sync".to_owned(),
        roles: Vec::new(),
        isolation: vec![alerts_table(true)],
        create_rights: Vec::new(),
        foreign_owners: Vec::new(),
        schema: None,
    }
}

fn tenant(
    name: &str,
    token: Result<TokenFacts, SyncError>,
    call: Option<Result<(), SyncError>>,
) -> TenantProbe {
    let scope = "https://api.security.microsoft.com/.default".to_owned();
    let (name, source) = (name.to_owned(), Source::Defender);
    TenantProbe { name, source, scope, token: Some(token), call, other_scope: None }
}

/// The only row of a check.
fn row(facts: &Facts, group: Group, check: &str) -> Finding {
    let mut rows =
        diagnose(facts, now()).into_iter().filter(|row| (row.group, row.check) == (group, check));
    let row = rows.next().unwrap();
    assert!(rows.next().is_none(), "{check} is there twice");
    row
}

#[test]
fn clock_skew_warns_then_fails() {
    for (ahead, result) in [
        (0, CheckResult::Ok),
        (60, CheckResult::Ok),
        (-61, CheckResult::Warning),
        (300, CheckResult::Warning),
        (301, CheckResult::Failure),
        (-301, CheckResult::Failure),
    ] {
        let row = row(
            &facts(vec![host(Some(ahead), 90)], good_database(), Vec::new()),
            Group::Network,
            "clock",
        );
        assert_eq!(row.result, result, "{ahead}");
    }
    let without_date = facts(vec![host(None, 90)], good_database(), Vec::new());
    assert_eq!(row(&without_date, Group::Network, "clock").result, CheckResult::NotTried);
}

#[test]
fn expiring_certificate_warns_with_issuer() {
    for (days, result) in [(8, CheckResult::Ok), (6, CheckResult::Warning)] {
        let row = row(
            &facts(vec![host(Some(0), days)], good_database(), Vec::new()),
            Group::Network,
            "tls",
        );
        assert_eq!(row.result, result);
        assert!(row.advice.contains("Company CA"), "{row:?}");
    }
}

#[test]
fn credential_expiry_decides_its_finding() {
    let result = |days: i64, problem: Option<&str>| {
        let expiry = CredentialExpiry {
            credential_id: CredentialId { client_id: "a".into(), name: "first", owner: None },
            kind: "certificate",
            expires: Some(now() + TimeDelta::days(days)),
            is_renewed: false,
            problem: problem.map(str::to_owned),
            fingerprint: [0; 32],
        };
        credential(&expiry, now()).result
    };
    assert_eq!(result(31, None), CheckResult::Ok);
    assert_eq!(result(31, Some("app.pem: not found")), CheckResult::Warning);
    assert_eq!(result(6, None), CheckResult::Warning);
    assert_eq!(result(-1, None), CheckResult::Failure);
}

#[test]
fn old_server_or_standby_fails() {
    let old = Inspection { version: 140_011, version_name: "14.11".to_owned(), ..good_database() };
    let version = row(&facts(Vec::new(), old, Vec::new()), Group::Database, "version");
    assert_eq!((version.result, version.who_must_act), (CheckResult::Failure, Some("operator")));
    assert!(
        version.advice.contains("14.11") && version.advice.contains("15 or newer"),
        "{version:?}"
    );
    let standby = facts(Vec::new(), Inspection { is_standby: true, ..good_database() }, Vec::new());
    assert!(row(&standby, Group::Database, "server").advice.contains("primary"));
    assert_eq!(row(&standby, Group::Database, "version").result, CheckResult::Ok);
}

#[test]
fn foreign_audience_fails_unless_api_accepts() {
    let judged = |aud: Option<&str>, call| {
        let facts_of_token = TokenFacts {
            check: TokenCheck::Valid,
            audience: aud.map(str::to_owned),
            refused: None,
        };
        let facts = facts(
            Vec::new(),
            good_database(),
            vec![tenant("Contoso", Ok(facts_of_token), Some(call))],
        );
        row(&facts, Group::Tenants, "audience").result
    };
    let refused = || Err(SyncError::of_status(401, None));
    for good in
        ["https://api.security.microsoft.com", "https://api.security.microsoft.com/", AUDIENCES[0]]
    {
        assert_eq!(judged(Some(good), refused()), CheckResult::Ok, "{good}");
    }
    for foreign in ["https://graph.microsoft.com", "https://api.security.microsoft.com.example"] {
        assert_eq!(judged(Some(foreign), refused()), CheckResult::Failure, "{foreign}");
        assert_eq!(judged(Some(foreign), Ok(())), CheckResult::Warning, "{foreign}");
    }
    assert_eq!(judged(None, Ok(())), CheckResult::NotTried);
}

#[test]
fn breaker_reports_its_original_cause() {
    let expired = SyncError::Entra {
        status: 401,
        error: String::new(),
        codes: vec![7_000_222],
        retry_after: None,
        details: Box::new(crate::error::EntraDetails {
            trace_id: "a-trace".to_owned(),
            ..crate::error::EntraDetails::default()
        }),
    };
    let spared = SyncError::CredentialBreaker { code: 7_000_222 };
    let tenants = vec![tenant("a", Err(expired), None), tenant("b", Err(spared.clone()), None)];
    let rows = diagnose(&facts(Vec::new(), good_database(), tenants), now());
    let tokens: Vec<&Finding> = rows.iter().filter(|row| row.check == "token").collect();
    assert_eq!((tokens.len(), &tokens[0].advice), (2, &tokens[1].advice));
    assert!(tokens[1].advice.contains("has expired"), "{tokens:?}");
    let alone = facts(Vec::new(), good_database(), vec![tenant("b", Err(spared), None)]);
    assert!(row(&alone, Group::Tenants, "token").advice.contains("7000222"));
}

fn with_schema(schema: SchemaState) -> Facts {
    facts(Vec::new(), Inspection { schema: Some(Ok(schema)), ..good_database() }, Vec::new())
}

fn holder(role: &str, age_seconds: Option<f64>) -> FeedHolder {
    let pid = Some(4711);
    let role = Some(role.to_owned());
    let application = Some("report".to_owned());
    FeedHolder {
        pid,
        gid: None,
        role,
        application,
        database: Some("sync".to_owned()),
        age_seconds,
        is_ours: false,
    }
}

#[test]
fn change_feed_warns_of_old_transactions() {
    let check = |holders: Vec<FeedHolder>, hidden_seconds: f64| {
        let feed = Feed { holders, hidden_seconds };
        row(
            &with_schema(SchemaState { feed, ..SchemaState::default() }),
            Group::Database,
            "change_feed",
        )
    };
    let ours = FeedHolder { is_ours: true, ..holder("sync", Some(300.0)) };
    assert_eq!(check(vec![ours, holder("bi", Some(59.0))], 300.0).result, CheckResult::Ok);
    assert_eq!(check(vec![holder("bi", None)], 59.0).result, CheckResult::Ok);
    let row = check(vec![holder("bi", Some(75.0))], 0.0);
    assert_eq!((row.result, row.who_must_act), (CheckResult::Warning, Some(OPERATOR)));
    for word in [
        "pid 4711 of bi (application report, database sync) for 75 s",
        "SELECT pg_terminate_backend(4711)",
    ] {
        assert!(row.advice.contains(word), "{}", row.advice);
    }
    let row = check(vec![holder("bi", None)], 75.0);
    assert!(
        row.advice.contains("pg_terminate_backend(4711)")
            && row.advice.contains("GRANT pg_read_all_stats TO sync"),
        "{}",
        row.advice
    );
    let prepared =
        FeedHolder { pid: None, gid: Some("it's".to_owned()), ..holder("bi", Some(75.0)) };
    let row = check(vec![prepared], 0.0);
    assert!(
        row.advice.ends_with(
            "prepared by bi in database sync for 75 s: run there: ROLLBACK PREPARED 'it''s'"
        ),
        "{}",
        row.advice
    );
    let many = check((0..7).map(|_| holder("bi", Some(75.0))).collect(), 0.0);
    assert!(many.advice.ends_with("; and 2 more"), "{}", many.advice);
}

#[test]
fn readers_without_a_connection_limit_are_a_warning() {
    let check = |limits: &[(&str, bool, bool)]| {
        let reader = |(role, connections, files): &(&str, bool, bool)| ReaderLimits {
            role: (*role).to_owned(),
            has_no_connection_limit: *connections,
            has_no_temp_file_limit: *files,
        };
        let readers = limits.iter().map(reader).collect();
        row(
            &with_schema(SchemaState { readers, ..SchemaState::default() }),
            Group::Database,
            "readers",
        )
    };
    assert_eq!(check(&[]).result, CheckResult::Ok);
    let bounded = check(&[("a", false, true)]);
    assert!(
        bounded.result == CheckResult::Ok
            && bounded.advice.contains("ALTER ROLE a SET temp_file_limit"),
        "{}",
        bounded.advice
    );
    let open = check(&[("a", false, false), ("b", true, false), ("c", true, false)]);
    assert_eq!(open.result, CheckResult::Warning);
    assert!(
        open.advice.contains("b, c may take every connection")
            && open.advice.contains("ALTER ROLE b CONNECTION LIMIT"),
        "{}",
        open.advice
    );
    assert!(!open.advice.contains("temp_file_limit"), "{}", open.advice);
}

fn text(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let Finding { group, check, about, result, who_must_act, advice, .. } = finding;
        let owner = who_must_act.unwrap_or("-");
        format!("{} {check} [{}] {owner}: {about}: {advice}\n", group.as_str(), result.as_str())
    };
    findings.iter().map(line).collect()
}

#[test]
fn findings_of_a_healthy_installation() {
    let inspection = Inspection { schema: Some(Ok(SchemaState::default())), ..good_database() };
    let token = TokenFacts {
        check: TokenCheck::Valid,
        audience: Some("https://api.security.microsoft.com".to_owned()),
        refused: None,
    };
    let tenants = vec![tenant("Contoso", Ok(token), Some(Ok(())))];
    let facts = facts(vec![host(Some(0), 90)], inspection, tenants);
    insta::assert_snapshot!(text(&diagnose(&facts, now())));
}

#[test]
fn findings_of_a_broken_database() {
    let inspection = Inspection {
        version: 140_011,
        version_name: "14.11".to_owned(),
        encoding: "LATIN1".to_owned(),
        is_standby: true,
        isolation: vec![alerts_table(false)],
        create_rights: vec!["REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned()],
        schema: Some(Ok(SchemaState {
            missing_rights: vec!["GRANT SELECT ON defender.incidents TO r".to_owned()],
            dead_grants: Some(vec!["acme".to_owned()]),
            ..SchemaState::default()
        })),
        ..good_database()
    };
    let facts = facts(Vec::new(), inspection, Vec::new());
    insta::assert_snapshot!(text(&diagnose(&facts, now())));
}

#[test]
fn findings_of_an_untrusted_certificate() {
    let certificate = SyncError::Transport {
        peer: crate::error::Peer::Entra,
        what: "invalid peer certificate: UnknownIssuer".to_owned(),
        fault: Some(crate::error::ConnectionFault::UnknownIssuer),
    };
    let host = Host { reached: Some(Err(certificate)), ..host(None, 0) };
    insta::assert_snapshot!(text(&connectivity(&[], &Egress::Direct, &[host], now())));
}
