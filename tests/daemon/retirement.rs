//! An API that ends: its announcement, and the one alarm when it refuses every tenant.

use nix::sys::signal::Signal;
use serde_json::Value;
use simulator::Source;

use crate::support::faketime::FakeClock;
use crate::support::installation::{
    Installation, Running, Settings, events, number, spec, stored, until,
};

fn with_message(log: &str, part: &str) -> Vec<Value> {
    let events = events(log).into_iter();
    events.filter(|event| event["message"].as_str().unwrap().contains(part)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn retired_api_is_one_error_line_and_one_metric() {
    let site = Installation::with((1..=20).map(|number| spec(number, 3)).collect()).await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    let served = "SELECT count(*) FROM defender.sync_state WHERE last_success_at IS NOT NULL";
    until("a success of every tenant", async || number(&pool, served).await == 20).await;
    let gauge = async |value| {
        let (_, metrics) = daemon.get("/metrics").await;
        metrics.contains(&format!("incident_sync_api_retired{{source=\"defender\"}} {value}\n"))
    };
    assert!(gauge(0).await);

    site.world().retire(Source::Defender, Some(410));
    let refused = "SELECT count(*) FROM defender.sync_state WHERE error_class = 'api_retired'";
    // The first two wait a minute before their next attempt.
    until("one cause for the other tenants", async || number(&pool, refused).await >= 18).await;
    assert!(gauge(1).await);
    let parked = "SELECT count(*) FROM defender.sync_state WHERE parked_reason IS NOT NULL";
    assert_eq!(number(&pool, parked).await, 0);

    site.world().retire(Source::Defender, None);
    daemon.signal(Signal::SIGHUP);
    until("the end of the alarm", async || gauge(0).await).await;
    until("the return of the tenants", async || number(&pool, refused).await == 0).await;
    for tenant in 1..=20 {
        assert_eq!(stored(&pool, tenant).await, 3);
    }
    pool.close().await;
    let done = daemon.ends_on(Signal::SIGTERM);
    let errors: Vec<Value> =
        events(&done.stderr).into_iter().filter(|event| event["level"] == "ERROR").collect();
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error["message"], "the Defender API refuses every tenant and seems to be retired");
    assert_eq!((&error["source"], &error["class"]), (&"defender".into(), &"api_retired".into()));
    assert!(error["advice"].as_str().unwrap().contains("tenant move --all --to graph"), "{error}");
    assert_eq!(with_message(&done.stderr, "serves tenants again").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_end_is_logged_once_for_all_tenants() {
    let site = Installation::with((1..=3).map(|number| spec(number, 1)).collect()).await;
    let daemon = site.start_daemon();
    let notice = async || with_message(&daemon.stderr(), "3 tenants use the Defender API");
    until("the notice", async || notice().await.len() == 1).await;
    assert_eq!(notice().await[0]["level"], "WARN");
    let (_, page) = daemon.get("/").await;
    assert_eq!(page.matches("3 tenants use the Defender API").count(), 1, "{page}");
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));

    let text = std::fs::read_to_string(site.config()).unwrap();
    let moved = text.replace("[api]\n", "[api]\nsource = \"graph\"\n");
    std::fs::write(site.config(), moved).unwrap();
    let daemon = site.start_daemon();
    let (_, page) = daemon.get("/").await;
    assert!(!page.contains("announced to end"), "{page}");
    let done = daemon.ends_on(Signal::SIGTERM);
    assert_eq!(with_message(&done.stderr, "use the Defender API").len(), 0);
}

/// What each date says, from silence to alarm.
#[tokio::test(flavor = "multi_thread")]
async fn announced_end_follows_the_date() {
    let site = Installation::with((1..=2).map(|number| spec(number, 1)).collect()).await;
    let Some(clock) = FakeClock::install(site.folder.path()) else { return };
    // The page shows the database's time, the commands that of their machine.
    let programs = clock.postgres_bin(site.folder.path());
    let mut settings = Settings { tenants: vec![1, 2], ..site.settings() };
    settings.database.push_str(&format!("\npostgres_bin = {programs:?}"));
    site.configure(&settings);
    let mut command = site.command(&["run", "--log-format", "json"]);
    clock.put_on(&mut command);
    let daemon = Running::start(command, site.folder.path());
    let pool = site.connect().await;
    let served = "SELECT count(*) FROM defender.sync_state WHERE last_success_at IS NOT NULL";
    until("a success of every tenant", async || number(&pool, served).await == 2).await;
    let run = |arguments: &[&str]| {
        let mut command = site.command(arguments);
        clock.put_on(&mut command);
        Running::start(command, site.folder.path()).ends()
    };
    for (date, when, advice) in [
        ("2026-11-02T23:50:00Z", None, ""),
        ("2026-11-03T00:10:00Z", Some("ends on 2027-02-01, in 90 days"), "Plan the move"),
        ("2027-01-01T12:00:00Z", Some("ends on 2027-02-01, in 31 days"), "Plan the move"),
        ("2027-01-02T00:10:00Z", Some("ends on 2027-02-01, in 30 days"), "Move them: "),
        ("2027-01-25T00:10:00Z", Some("ends on 2027-02-01, in 7 days"), "Move them now: "),
        ("2027-02-01T00:10:00Z", Some("was to end on 2027-02-01, today"), "Move them now: "),
        ("2027-02-15T00:10:00Z", Some("was to end on 2027-02-01, 14 days ago"), "Move them now: "),
    ] {
        clock.set_date(date);
        let notice = when.map(|when| {
            format!("2 tenants use the Defender API, which {when} (announced by Microsoft")
        });
        // `status` wraps the line.
        let is_current = |text: &str| match (&notice, text.replace('\n', " ")) {
            (Some(notice), text) => text.contains(notice) && text.contains(advice),
            (None, text) => !text.contains("2027-02-01"),
        };
        until(&format!("the page of {date}"), async || is_current(&daemon.get("/").await.1)).await;
        for command in [&["status"][..], &["check", "--json"]] {
            let done = run(command);
            assert!(is_current(&done.stdout), "{command:?} at {date}: {}", done.stdout);
        }
        let json: Value = serde_json::from_str(&run(&["status", "--json"]).stdout).unwrap();
        let text = json.to_string();
        assert_eq!(
            text.contains("\"announced_end\":\"2027-02-01\""),
            when.is_some(),
            "{date}: {text}"
        );
    }
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
