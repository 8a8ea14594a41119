//! `tenant move`: tries the new source, says what is missing, and changes one line of the tenant's file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use simulator::{Behaviour, Source, TenantSpec};

use crate::support::installation::{Installation, Settings, id, number, spec};
use crate::support::tenants::PLENTY;

/// A site whose tenants have files of their own, each with so many incidents.
async fn site_of_files(files: &[(u128, &str)]) -> Installation {
    let spec = |number| TenantSpec { graph_calls_per_minute: PLENTY, ..spec(number, 12) };
    let site = Installation::with(files.iter().map(|(number, _)| spec(*number)).collect()).await;
    site.configure(&Settings { tenants: vec![], ..site.settings() });
    let text = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), format!("tenants_dir = \"tenants.d\"\n{text}")).unwrap();
    fs::create_dir(site.path("tenants.d")).unwrap();
    for (number, more) in files {
        let head = format!(
            "# tenant {number}\nid = \"{}\"  # theirs\nname = \"tenant-{number}\"\n",
            id(*number)
        );
        fs::write(file_of(&site, *number), head + more).unwrap();
    }
    site
}

fn file_of(site: &Installation, number: u128) -> PathBuf {
    site.path(&format!("tenants.d/tenant-{number}.toml"))
}

fn text_of(site: &Installation, number: u128) -> String {
    fs::read_to_string(file_of(site, number)).unwrap()
}

/// The admin of this tenant consents to the permission of the Defender API alone.
async fn consent_to_defender_only(site: &Installation, number: u128) {
    let world = site.world();
    let missing = Behaviour { consent_missing: true, ..Behaviour::default() };
    world.set_behaviour(id(number), missing);
    world.set_registered(&[Source::Defender]);
    let link = site.run(&["consent-url", "--tenant", &format!("tenant-{number}")]).success();
    let answer = incident_sync::http_client::client().get(link.trim()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 302);
    world.set_registered(&[Source::Defender, Source::Graph]);
}

fn states(moves: &Value) -> Vec<(&str, &str)> {
    let all = moves.as_array().unwrap().iter();
    all.map(|each| (each["name"].as_str().unwrap(), each["state"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn move_changes_one_line_of_the_ready_tenant_only() {
    let labels = "\n# billing\n[labels]\nsource = \"crm\" # theirs too\n";
    let site = site_of_files(&[(1, labels), (2, "")]).await;
    consent_to_defender_only(&site, 2).await;
    site.run(&["sync"]).success();
    fs::set_permissions(file_of(&site, 1), Permissions::from_mode(0o640)).unwrap();
    let before = [text_of(&site, 1), text_of(&site, 2)];

    let both = ["tenant", "move", "tenant-1", "tenant-2", "--to", "graph", "--json"];
    let checked = site.run(&[&both[..], &["--check"]].concat());
    assert_eq!(checked.code(), Some(1));
    assert_eq!(states(&checked.json()), [("tenant-1", "ready"), ("tenant-2", "refused")]);
    assert_eq!([text_of(&site, 1), text_of(&site, 2)], before, "a check changes no file");

    let moved = site.run(&both);
    assert_eq!(moved.code(), Some(1), "one was not moved");
    let moves = moved.json();
    assert_eq!(states(&moves), [("tenant-1", "moved"), ("tenant-2", "refused")]);
    assert_eq!(
        (&moves[1]["class"], &moves[1]["who_must_act"]),
        (&json!("missing_role"), &json!("customer_admin"))
    );
    let link = moves[1]["consent_url"].as_str().unwrap();
    assert!(link.contains(&format!("/{}/v2.0/adminconsent", id(2))), "{link}");
    assert_eq!(moves[0]["consent_url"], Value::Null);
    let expected =
        before[0].replace("name = \"tenant-1\"\n", "name = \"tenant-1\"\nsource = \"graph\"\n");
    assert_eq!(text_of(&site, 1), expected);
    let mode = fs::metadata(file_of(&site, 1)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((text_of(&site, 2), mode), (before[1].clone(), 0o640));
    assert_eq!(fs::read_dir(site.path("tenants.d")).unwrap().count(), 2);

    site.run(&["sync"]).success();
    let status = site.run(&["status", "--json"]);
    assert_eq!(
        (&status.tenants()[0]["source"], &status.tenants()[1]["source"]),
        (&json!("graph"), &json!("defender"))
    );
    let shown = site.run(&["status"]).stdout;
    assert!(shown.lines().any(|line| line == "source: 1 graph, 1 defender"), "{shown}");
    let listed = site.run(&["tenant", "list", "--json"]).json();
    assert_eq!((&listed[0]["source"], &listed[1]["source"]), (&json!("graph"), &json!("defender")));
    let again = site.run(&["tenant", "move", "tenant-1", "--to", "graph", "--json"]);
    assert_eq!((again.code(), states(&again.json())), (Some(0), vec![("tenant-1", "configured")]));

    let (server, pool) = site.open_database().await;
    let audited = "SELECT count(*) FROM defender.audit WHERE action = 'source set to graph'";
    assert_eq!(number(&pool, audited).await, 1);
    pool.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn move_refuses_what_must_be_changed_by_hand() {
    let own = "base_url = \"https://api.security.microsoft.com\"\n";
    let hidden = "[labels]\n";
    let site = site_of_files(&[(1, own), (2, hidden)]).await;
    let main = fs::read_to_string(site.config()).unwrap();
    site.world().add_tenant(spec(3, 3));
    fs::write(
        site.config(),
        format!("{main}[[tenants]]\nid = \"{}\"\nname = \"tenant-3\"\n", id(3)),
    )
    .unwrap();
    site.run(&["sync", "--tenant", "tenant-2", "--tenant", "tenant-3"]).success();
    let before = text_of(&site, 1);
    let refused = site.run(&["tenant", "move", "tenant-1", "tenant-3", "--to", "graph", "--json"]);
    let moves = refused.json();
    assert_eq!(refused.code(), Some(1));
    assert_eq!(states(&moves), [("tenant-1", "refused"), ("tenant-3", "refused")]);
    let problem = |at: usize| moves[at]["problem"].as_str().unwrap();
    assert!(problem(0).contains("base_url") && problem(1).contains("[[tenants]]"), "{moves}");
    assert_eq!(text_of(&site, 1), before);
    assert_eq!(site.run(&["tenant", "move", "nobody", "--to", "graph"]).code(), Some(2));
    assert_eq!(site.run(&["tenant", "move", "tenant-1", "--to", "sentinel"]).code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn move_with_other_ids_is_refused_before_the_file() {
    let site = site_of_files(&[(1, "")]).await;
    site.run(&["sync"]).success();
    let (server, pool) = site.open_database().await;
    let query = "UPDATE defender.incidents SET created_time = created_time - interval '1 second'";
    sqlx::query(query).execute(&pool).await.unwrap();
    pool.close().await;
    server.stop().await;
    let before = text_of(&site, 1);
    let refused = site.run(&["tenant", "move", "tenant-1", "--to", "graph", "--json"]);
    let moves = refused.json();
    assert_eq!((refused.code(), &moves[0]["class"]), (Some(1), &json!("source_mismatch")));
    assert_eq!(text_of(&site, 1), before);
}
