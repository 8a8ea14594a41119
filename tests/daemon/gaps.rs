//! A gap as an operator sees it: in the log, in `status`, and closed again.

use serde_json::{Value, json};

use crate::support::installation::{Installation, events, id, spec};

fn status(site: &Installation) -> Value {
    site.run(&["status", "--json"]).tenants()[0].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn gap_is_reported_until_it_is_closed() {
    let site = Installation::with(vec![spec(1, 130)]).await;
    site.world().poison(id(1), 40);
    let sync = site.run(&["sync", "--log-format", "json"]);
    let log = events(&sync.stderr);
    sync.success();
    let warned = log.iter().find(|event| event["window_from"].is_string());
    let warned = warned.expect("the log warns");
    assert_eq!(
        (&warned["level"], &warned["owner"]),
        (&json!("WARN"), &json!("operator")),
        "{warned}"
    );
    for (field, expected) in
        [("window_from", "202"), ("window_to", "202"), ("error", "43f4cb08-"), ("advice", "")]
    {
        assert!(
            warned[field].as_str().is_some_and(|text| text.contains(expected)),
            "{field}: {warned}"
        );
    }
    let tenant = status(&site);
    assert_eq!((&tenant["gaps"], &tenant["incidents"]), (&json!(1), &json!(129)), "{tenant}");
    assert_eq!(
        (&tenant["state"], &tenant["must_act"]["owner"]),
        (&json!("incomplete"), &json!("operator")),
        "{tenant}"
    );

    site.world().heal(id(1));
    site.run(&["sync"]).success();
    let tenant = status(&site);
    assert_eq!((&tenant["gaps"], &tenant["incidents"]), (&json!(0), &json!(130)), "{tenant}");
    assert_eq!((&tenant["state"], &tenant["must_act"]), (&json!("ok"), &Value::Null), "{tenant}");
}
