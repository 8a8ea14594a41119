//! The status page as HTML, one line a tag.

use nix::sys::signal::Signal;
use simulator::{Behaviour, TenantSpec};

use crate::support::golden::assert_golden;
use crate::support::installation::{Installation, Running, Settings, eventually, id, spec};
use crate::support::redact::{redact, replace};

/// Far from any day on which tests run.
const NEVER: &str = "0 0 0 29 2 *";

/// Without what depends on the time or on the machine.
fn steady(site: &Installation, page: &str) -> String {
    let page = redact(page, site.folder.path());
    let page = replace(&page, r"<style>[^<]*</style>", "<style>[style]</style>");
    let page = replace(&page, r"\d+(s|m|h|days?)( \d+(s|m|h))?(?-u:\b)", "[age]");
    let page = replace(&page, r"1,000,000|9\d\d,\d{3}", "[calls]");
    let page = replace(&page, r"points=.[\d., ]*.>", "points=\"[points]\">");
    let page = replace(&page, r#"(<rect [^>]*) x="[\d.]+""#, "${1} x=\"[x]\"");
    let page = replace(&page, r">\d+\.\d<", ">[seconds]<");
    // How many calls the search for a gap takes depends on the time.
    let number = r#"</td><td class="number[^"]*">"#;
    let search = format!(r"(\[seconds\]{number})\d\d+({number}\d+{number})\d{{3}}<");
    let page = replace(&page, &search, "${1}[many]${2}[many]<");
    page.replace("><", ">\n<")
}

#[tokio::test(flavor = "multi_thread")]
async fn status_pages_match_snapshots() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let parked = TenantSpec { behaviour: without_consent, ..spec(2, 5) };
    let site = Installation::with(vec![spec(1, 60), parked, spec(3, 130)]).await;
    site.world().poison(id(3), 40);
    let disabled = format!("[[tenants]]\nid = \"{}\"\nname = \"<b>&\"\nenabled = false\n", id(4))
        .replace("\"<b>&\"", "'<b>&\"'");
    let tenants = vec![1, 2, 3];
    site.configure(&Settings { poll: NEVER, tenants, more: disabled, ..site.settings() });
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("INCIDENT_SYNC__SCHEDULE__OPEN_INCIDENTS", NEVER);
    command.env("INCIDENT_SYNC__SCHEDULE__RECONCILE", NEVER);
    let daemon = Running::start(command, site.folder.path());
    let fleet = eventually("the first sync of every tenant", async || {
        let (_, page) = daemon.get("/").await;
        let states = ["> parked</span>", "> incomplete</span>", "> ok</span>", "> disabled</span>"];
        states.iter().all(|state| page.contains(state)).then_some(page)
    })
    .await;
    assert_golden("pages", "fleet", &steady(&site, &fleet));
    for (name, tenant) in [("tenant_ok", 1), ("tenant_parked", 2), ("tenant_incomplete", 3)] {
        let (status, page) = daemon.get(&format!("/tenants/{}", id(tenant))).await;
        assert_eq!(status, 200);
        assert_golden("pages", name, &steady(&site, &page));
    }
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
