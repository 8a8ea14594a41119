//! The status page, as programs and browsers get it.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use reqwest::{Method, Response};
use serde_json::Value;
use simulator::{Behaviour, TenantSpec};
use sqlx::PgPool;

use crate::support::installation::signal_all;
use crate::support::installation::{
    Installation, Running, Settings, eventually, id, spec, until, write_secret,
};

/// A customer may be called anything.
const NAME: &str = "<b>&\"O'Neill</b>";

/// One tenant that is well, and one that has not consented.
async fn site_with_a_fault() -> Installation {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let site = Installation::with(vec![
        spec(1, 60),
        TenantSpec { behaviour: without_consent, ..spec(2, 5) },
    ])
    .await;
    let more = format!("[[tenants]]\nid = \"{}\"\nname = '''{NAME}'''\nenabled = false\n", id(3));
    site.configure(&Settings { tenants: vec![1, 2], more, ..site.settings() });
    site
}

async fn url(daemon: &Running) -> String {
    format!("http://{}/", daemon.logs("Started").await["listen"].as_str().unwrap())
}

/// The page of all tenants once it holds this.
async fn page_with(daemon: &Running, what: &str) -> String {
    eventually(&format!("on the page: {what}"), async || {
        Some(daemon.get("/").await.1).filter(|page| page.contains(what))
    })
    .await
}

async fn ask(daemon: &Running, method: Method, path: &str, host: Option<&str>) -> Response {
    let address = daemon.logs("Started").await["listen"].as_str().unwrap().to_owned();
    let request =
        incident_sync::http_client::client().request(method, format!("http://{address}{path}"));
    host.into_iter()
        .fold(request, |request, host| request.header("Host", host))
        .send()
        .await
        .unwrap()
}

async fn incident_names(pool: &PgPool) -> Vec<String> {
    let names =
        "SELECT DISTINCT incident_name FROM defender.incidents WHERE incident_name IS NOT NULL";
    sqlx::query_scalar(names).fetch_all(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn page_lists_worst_tenants_first_without_incidents() {
    let site = site_with_a_fault().await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("both have run", async || {
        let page = daemon.get("/").await.1;
        page.contains("parked") && page.contains("poll ok")
    })
    .await;
    let page = daemon.get("/").await.1;
    let place =
        |what: &str| page.find(what).unwrap_or_else(|| panic!("{what} is not on the page: {page}"));
    assert!(place(">tenant-2<") < place(">tenant-1<"), "what is parked comes first");
    assert!(
        place(">tenant-1<") < place("&lt;b&gt;&amp;&quot;O'Neill&lt;/b&gt;"),
        "what is disabled comes last"
    );
    assert!(!page.contains("<b>&") && !page.contains("<script"), "{page}");
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM defender.incidents WHERE resolved_at IS NULL AND NOT is_merged AND severity = 'High'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(open > 0);
    let row = page.split(">tenant-1<").nth(1).unwrap().split("</tr>").next().unwrap();
    assert!(
        row.contains(&format!("data-label=\"Open: high\">{open}</td>")),
        "{open} open of high severity: {row}"
    );

    let (status, one) = daemon.get(&format!("/tenants/{}", id(1))).await;
    assert_eq!(status, 200);
    let (_, parked) = daemon.get(&format!("/tenants/{}", id(2))).await;
    assert!(parked.contains("AADSTS700016"), "{parked}");
    let names = incident_names(&pool).await;
    assert!(names.len() > 3);
    for name in names {
        assert!(
            ![&page, &one, &parked].iter().any(|page| page.contains(&name)),
            "{name} must not be shown here"
        );
    }
    for unknown in [id(99).to_string(), "contoso".to_owned(), "%3Cscript%3E".to_owned()] {
        let (status, body) = daemon.get(&format!("/tenants/{unknown}")).await;
        assert!(status == 404 && body.contains("<a href=\"/\">All tenants</a>"), "{status} {body}");
    }
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_cause_is_one_banner_and_one_group() {
    let site = Installation::with((1..=4).map(|number| spec(number, 3)).collect()).await;
    write_secret(&site.path("secret"), b"not-the-secret\n");
    let more = "[tenants.labels]\ntier = \"gold\"\n".to_owned();
    site.configure(&Settings { tenants: vec![1, 2, 3, 4], more, ..site.settings() });
    let daemon = site.start_daemon();
    let page = page_with(&daemon, "4 tenants are affected by one cause.").await;
    assert_eq!(page.matches("class=\"group\"").count(), 1, "{page}");
    assert!(page.contains("http-equiv=\"refresh\""), "refreshed by default");
    let off = daemon.get("/?refresh=off").await.1;
    assert!(!off.contains("http-equiv"), "{off}");

    let names = async |query: &str| {
        let document: Value = daemon.get(&format!("/api/status?{query}")).await.1.parse().unwrap();
        let tenants = document["tenants"].as_array().unwrap().clone();
        tenants.iter().map(|tenant| tenant["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("sort=name").await, ["tenant-1", "tenant-2", "tenant-3", "tenant-4"]);
    assert_eq!(names("label=tier%3Dgold").await, ["tenant-4"]);
    assert_eq!(names("q=T-2&owner=operator&class=credential&state=parked").await, ["tenant-2"]);
    assert!(names("owner=customer_admin").await.is_empty());
    let document: Value = daemon.get("/api/status").await.1.parse().unwrap();
    assert_eq!(document["problems"][0]["tenants"].as_array().unwrap().len(), 4, "{document}");
    assert_eq!(daemon.get("/favicon.svg").await.0, 200);
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_is_read_only_and_local() {
    let site = Installation::with(vec![]).await;
    let daemon = site.start_daemon();
    for path in ["/", "/metrics", "/healthz", "/nowhere"] {
        let answer = ask(&daemon, Method::GET, path, None).await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert!(
            header("content-security-policy").starts_with("default-src 'none'; style-src 'sha256-"),
            "{path}"
        );
        assert!(!header("content-security-policy").contains("unsafe"), "{path}");
        let others = ["x-content-type-options", "referrer-policy", "cache-control"].map(header);
        assert_eq!(others, ["nosniff", "no-referrer", "no-store"], "{path}");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = ask(&daemon, method.clone(), path, None).await;
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["allow"]),
                (405, &"GET, HEAD".parse().unwrap())
            );
        }
        for host in ["evil.example", "127.0.0.1.evil.example:9464"] {
            let answer = ask(&daemon, Method::GET, path, Some(host)).await;
            assert_eq!(answer.status(), 421, "{path} for {host}");
            assert!(!answer.text().await.unwrap().contains("incident_sync_"), "{path} for {host}");
        }
    }
    assert_eq!(ask(&daemon, Method::GET, "/", Some("localhost:1")).await.status(), 200);
    let head = ask(&daemon, Method::HEAD, "/", None).await;
    assert_eq!((head.status().as_u16(), head.text().await.unwrap().as_str()), (200, ""));
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_last_data_while_database_is_down() {
    let site = site_with_a_fault().await;
    let daemon = site.start_daemon();
    page_with(&daemon, "poll ok").await;
    let servers = site.servers();
    signal_all(&servers, Signal::SIGSTOP);
    let page = page_with(&daemon, "The database does not answer.").await;
    assert_eq!(daemon.get("/").await.0, 503, "a probe must not take it for well");
    assert!(page.contains("Showing data from") && page.contains("poll ok"), "{page}");
    // The age grows although the database cannot be read.
    until("five seconds", async || {
        let page = daemon.get("/").await.1;
        let row =
            page.split(">tenant-1<").nth(1).unwrap().split("</tr>").next().unwrap().to_owned();
        (5..60).any(|seconds| row.contains(&format!(">{seconds}s ago<")))
    })
    .await;
    let (status, one) = daemon.get(&format!("/tenants/{}", id(1))).await;
    assert!(status == 503 && one.contains("The database does not answer."), "{one}");
    signal_all(&servers, Signal::SIGCONT);
    until("all is well again", async || !daemon.get("/").await.1.contains("does not answer")).await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

/// Debian's package, or another one.
fn browser() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    if found.is_none() {
        eprintln!(
            "SKIPPED: no browser here looked at the status page; install Debian's package chromium"
        );
    }
    found
}

/// Has the browser do `what` with a page, and answers with its standard output. What it complains of is a failure.
fn browse(browser: &str, url: &str, what: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).args(what).arg(url);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for complaint in ["Content Security Policy", "Refused to", "CONSOLE"] {
        assert!(!errors.contains(complaint), "{errors}");
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The colour of a PNG's first pixel: of the first row nothing stands before or above it.
fn first_pixel(png: &[u8]) -> [u8; 3] {
    let (mut at, mut data) = (8, Vec::new());
    while at < png.len() {
        let length = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        if &png[at + 4..at + 8] == b"IDAT" {
            data.extend_from_slice(&png[at + 8..at + 8 + length]);
        }
        at += 12 + length;
    }
    let mut row = [0; 4];
    flate2::read::ZlibDecoder::new(&data[..]).read_exact(&mut row).unwrap();
    [row[1], row[2], row[3]]
}

/// The pictures stay, to be looked at.
#[tokio::test(flavor = "multi_thread")]
async fn browser_renders_page_in_light_and_dark() {
    let Some(browser) = browser() else { return };
    let site = site_with_a_fault().await;
    let daemon = site.start_daemon();
    page_with(&daemon, "poll ok").await;
    page_with(&daemon, "parked").await;
    let url = url(&daemon).await;
    let dom = browse(browser, &url, &["--dump-dom"]);
    assert!(dom.contains("tenant-1") && dom.contains("&lt;b&gt;"), "{dom}");
    let tenant = format!("{url}tenants/{}", id(1));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, page, scheme, size, ground) in [
        ("light", &url, 1, "1400,800", [0xff, 0xff, 0xff]),
        ("dark", &url, 0, "1400,800", [0x10, 0x15, 0x1b]),
        ("phone", &url, 1, "500,1400", [0xff, 0xff, 0xff]),
        ("tenant", &tenant, 1, "1400,800", [0xff, 0xff, 0xff]),
        ("tenant-on-a-phone", &tenant, 0, "390,1200", [0x10, 0x15, 0x1b]),
    ] {
        let file = folder.join(format!("status-page-{name}.png"));
        let settings = format!("--blink-settings=preferredColorScheme={scheme}");
        let picture = format!("--screenshot={}", file.display());
        browse(browser, page, &[&settings, &format!("--window-size={size}"), &picture]);
        assert_eq!(first_pixel(&std::fs::read(&file).unwrap()), ground, "{}", file.display());
    }
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
