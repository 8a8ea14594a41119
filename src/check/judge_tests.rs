use super::super::network::Shown;
use super::super::{CheckResult, ConfigurationSeen, DatabaseSeen};
use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn facts(hosts: Vec<Host>, inspection: Inspection, tenants: Vec<Seen>) -> Facts {
    let file = "incident-sync.toml".to_owned();
    let (open_to_writers, closed_to_service, warnings) = (Vec::new(), Vec::new(), Vec::new());
    let configuration = ConfigurationSeen { file, tenants: 1, open_to_writers, closed_to_service, warnings };
    let database = DatabaseSeen {
        server: "postgres://db".to_owned(),
        looked_up: None,
        connected: None,
        inspection: Ok(inspection),
    };
    Facts { configuration, endings: Vec::new(), way: Way::Direct, hosts, database, tenants }
}

fn host(ahead: Option<i64>, days: i64) -> Host {
    let certificate = Some(Shown { issuer: "Company CA".to_owned(), ends: now() + TimeDelta::days(days) });
    let reached = Some(Ok(Reached { ahead, certificate }));
    Host { origin: "https://login.example".to_owned(), is_tls: true, looked_up: Some(Ok(2)), reached }
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
        isolation: vec![("alerts".to_owned(), true)],
        create_rights: Vec::new(),
        foreign_owners: Vec::new(),
        schema: None,
    }
}

fn seen(name: &str, token: Result<Told, SyncError>, call: Option<Result<(), SyncError>>) -> Seen {
    let scope = "https://api.security.microsoft.com/.default".to_owned();
    Seen { name: name.to_owned(), scope, token: Some(token), call }
}

/// The only row of a check.
fn row(facts: &Facts, group: Group, check: &str) -> Finding {
    let mut rows = judge(facts, now()).into_iter().filter(|row| (row.group, row.check) == (group, check));
    let row = rows.next().unwrap();
    assert!(rows.next().is_none(), "{check} is there twice");
    row
}

#[test]
fn a_clock_warns_beyond_a_minute_and_fails_beyond_five() {
    for (ahead, result) in [
        (0, CheckResult::Ok),
        (60, CheckResult::Ok),
        (-61, CheckResult::Warning),
        (300, CheckResult::Warning),
        (301, CheckResult::Failure),
        (-301, CheckResult::Failure),
    ] {
        let row = row(&facts(vec![host(Some(ahead), 90)], good_database(), Vec::new()), Group::Network, "clock");
        assert_eq!(row.result, result, "{ahead}");
    }
    let untold = facts(vec![host(None, 90)], good_database(), Vec::new());
    assert_eq!(row(&untold, Group::Network, "clock").result, CheckResult::NotTried);
}

#[test]
fn a_certificate_that_ends_soon_is_told_with_its_issuer() {
    for (days, result) in [(8, CheckResult::Ok), (6, CheckResult::Warning)] {
        let row = row(&facts(vec![host(Some(0), days)], good_database(), Vec::new()), Group::Network, "tls");
        assert_eq!(row.result, result);
        assert!(row.say.contains("Company CA"), "{row:?}");
    }
}

#[test]
fn a_server_that_is_too_old_or_a_standby_fails() {
    let old = Inspection { version: 140_011, version_name: "14.11".to_owned(), ..good_database() };
    let told = row(&facts(Vec::new(), old, Vec::new()), Group::Database, "version");
    assert_eq!((told.result, told.who_must_act), (CheckResult::Failure, Some("operator")));
    assert!(told.say.contains("14.11") && told.say.contains("15 or newer"), "{told:?}");
    let standby = facts(Vec::new(), Inspection { is_standby: true, ..good_database() }, Vec::new());
    assert!(row(&standby, Group::Database, "server").say.contains("primary"));
    assert_eq!(row(&standby, Group::Database, "version").result, CheckResult::Ok);
}

#[test]
fn a_token_for_somebody_else_fails_unless_the_api_takes_it() {
    let judged = |aud: Option<&str>, call| {
        let told = Told { look: Look::Fine, audience: aud.map(str::to_owned) };
        let facts = facts(Vec::new(), good_database(), vec![seen("Contoso", Ok(told), Some(call))]);
        row(&facts, Group::Tenants, "audience").result
    };
    let refused = || {
        let (code, target, hint) = (String::new(), String::new(), String::new());
        Err(SyncError::Api { status: 401, code, target, retry_after: None, hint })
    };
    for good in ["https://api.security.microsoft.com", "https://api.security.microsoft.com/", AUDIENCES[0]] {
        assert_eq!(judged(Some(good), refused()), CheckResult::Ok, "{good}");
    }
    for foreign in ["https://graph.microsoft.com", "https://api.security.microsoft.com.example"] {
        assert_eq!(judged(Some(foreign), refused()), CheckResult::Failure, "{foreign}");
        assert_eq!(judged(Some(foreign), Ok(())), CheckResult::Warning, "{foreign}");
    }
    assert_eq!(judged(None, Ok(())), CheckResult::NotTried);
}

#[test]
fn the_breaker_says_what_opened_it() {
    let expired = SyncError::Entra {
        status: 401,
        error: String::new(),
        codes: vec![7_000_222],
        trace_id: "a-trace".to_owned(),
        retry_after: None,
    };
    let spared = SyncError::CredentialBreaker { code: 7_000_222 };
    let tenants = vec![seen("a", Err(expired), None), seen("b", Err(spared.clone()), None)];
    let rows = judge(&facts(Vec::new(), good_database(), tenants), now());
    let tokens: Vec<&Finding> = rows.iter().filter(|row| row.check == "token").collect();
    assert_eq!((tokens.len(), &tokens[0].say), (2, &tokens[1].say));
    assert!(tokens[1].say.contains("has expired"), "{tokens:?}");
    let alone = facts(Vec::new(), good_database(), vec![seen("b", Err(spared), None)]);
    assert!(row(&alone, Group::Tenants, "token").say.contains("7000222"));
}
