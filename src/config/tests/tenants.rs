//! Tenants: application, addresses, retention, labels.

use super::*;
use crate::tenant::{Cloud, Endpoints, Retention, Source, TokenVersion};

#[test]
fn retention_of_tenant_overrides_common_one() {
    let own = "retention = '200d'\n";
    let text =
        format!("[retention]\nincidents = '400d'\nruns = '7d'\n{APP}{CONTOSO}{FABRIKAM}{own}");
    let [contoso, fabrikam] = &Etc::with(&text).good().tenants[..] else { panic!("two tenants") };
    assert_eq!(contoso.retention, Retention { incidents: Some(400 * DAY), runs: 7 * DAY });
    assert_eq!(fabrikam.retention, Retention { incidents: Some(200 * DAY), runs: 7 * DAY });
    let plain = Etc::with(&format!("{APP}{CONTOSO}")).good();
    assert_eq!(plain.tenants[0].retention, Retention { incidents: None, runs: 30 * DAY });
}

#[test]
fn retention_shorter_than_lookback_is_rejected() {
    let text = format!("[retention]\nincidents = '179d'\n{APP}{CONTOSO}retention = '30d'\n");
    let errors = Etc::with(&text).errors();
    let expected = [
        "incident-sync.toml: retention.incidents: out of range; set a time from 180d to 36500d",
        "incident-sync.toml: tenants[0] (Contoso).retention: out of range; set a time from 180d to 36500d",
    ];
    assert_eq!(errors, expected);
    let short = format!("[sync]\nlookback = '1d'\n[retention]\nincidents = '6d'\n{APP}{CONTOSO}");
    assert!(
        Etc::with(&short).errors()[0].contains("from 7d"),
        "the reconciliation would read deleted incidents again"
    );
}

#[test]
fn regional_host_gets_scope_of_common_host() {
    for (base_url, scope) in [
        ("https://eu.api.security.microsoft.com", "https://api.security.microsoft.com/.default"),
        ("https://api-uk.security.microsoft.com/", "https://api.security.microsoft.com/.default"),
        // Entra of the worldwide cloud, which GCC uses, does not know the name of GCC's host.
        ("https://api-gcc.security.microsoft.us", "https://api.security.microsoft.com/.default"),
        ("https://api-gov.security.microsoft.us", "https://api-gov.security.microsoft.us/.default"),
        (
            "https://example.com/security.microsoft.com",
            "https://example.com/security.microsoft.com/.default",
        ),
    ] {
        let config = Etc::with(&format!("[api]\nbase_url = '{base_url}'\n{APP}{CONTOSO}")).good();
        assert_eq!(config.tenants[0].endpoints.scope, scope);
    }
}

#[test]
fn internal_labels_must_be_table_of_texts() {
    let labels = |own: &str| Etc::with(&format!("{APP}{CONTOSO}{own}"));
    let expected = [("internal.margin", "low"), ("tier", "gold")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    for own in [
        "labels = { tier = 'gold', internal = { margin = 'low' } }\n",
        "labels.tier = 'gold'\nlabels.internal.margin = 'low'\n",
        "labels = { tier = 'gold', 'internal.margin' = 'low' }\n",
    ] {
        assert_eq!(labels(own).good().tenants[0].labels, expected.clone().into(), "{own}");
    }
    for (own, key) in [
        ("labels = { internal = 'low' }\n", "tenants[0] (Contoso).labels.internal"),
        ("labels = { internal = { margin = 1 } }\n", "tenants[0] (Contoso).labels.internal.margin"),
        (
            "labels = { internal = { margin = { eu = 'low' } } }\n",
            "tenants[0] (Contoso).labels.internal.margin",
        ),
    ] {
        let refused = labels(own).load().unwrap_err();
        assert!(refused.0.len() == 1 && refused.0[0].key == key, "{own}: {refused:?}");
    }
}

#[test]
fn tenants_inherit_app_and_api() {
    let own = "client_id = '99999999-2222-3333-4444-555555555555'\nclient_secret = 'own'\nbase_url = 'http://127.0.0.1:8080/'\n";
    let third = "[[tenants]]\nid = 'aaaaaaaa-bbbb-cccc-dddd-000000000000'\nname = 'Wingtip'\nlabels.tier = 'gold'\ncloud = 'gcc-high'\n";
    let config =
        Etc::with(&format!("[api]\ntoken_version = 'v1'\n{APP}{CONTOSO}{FABRIKAM}{own}{third}"))
            .good();
    let [contoso, fabrikam, wingtip] = &config.tenants[..] else { panic!("three tenants") };
    assert!(Arc::ptr_eq(&contoso.app, &wingtip.app) && !Arc::ptr_eq(&contoso.app, &fabrikam.app));
    assert_eq!((secret_of(contoso), secret_of(fabrikam)), (CANARY.to_owned(), "own".to_owned()));
    assert_eq!(contoso.endpoints.scope, "https://api.security.microsoft.com/.default");
    assert_eq!(contoso.endpoints.token_version, TokenVersion::V1);
    assert_eq!(fabrikam.endpoints.scope, "http://127.0.0.1:8080/.default");
    assert_eq!(
        wingtip.endpoints.base_url.as_str(),
        format!("{}/", Cloud::GccHigh.base_url(Source::Defender))
    );
    assert_eq!(wingtip.labels["tier"], "gold");
}

#[test]
fn enabled_tenants_need_an_application() {
    let errors = Etc::with(&format!("{CONTOSO}{FABRIKAM}")).errors();
    assert_eq!(errors.len(), 2, "one for each key, not for each tenant: {errors:#?}");
    assert!(
        errors[0]
            .contains("app.client_id: missing, and 2 enabled tenant(s) need it (Contoso first)"),
        "{errors:#?}"
    );
    let disabled =
        Etc::with(&format!("{CONTOSO}enabled = false\nclient_secret_file = 'gone'\n")).good();
    assert!(!disabled.tenants[0].enabled);
}

#[test]
fn addresses_follow_source_and_cloud() {
    let table = [
        ("defender", "commercial", "https://api.security.microsoft.com"),
        ("defender", "gcc", "https://api-gcc.security.microsoft.us"),
        ("defender", "gcc-high", "https://api-gov.security.microsoft.us"),
        ("defender", "dod", "https://api-gov.security.microsoft.us"),
        ("graph", "commercial", "https://graph.microsoft.com"),
        ("graph", "gcc", "https://graph.microsoft.com"),
        ("graph", "gcc-high", "https://graph.microsoft.us"),
        ("graph", "dod", "https://dod-graph.microsoft.us"),
    ];
    for (source, cloud, host) in table {
        let common = format!("[api]\nsource = '{source}'\ncloud = '{cloud}'\n{APP}{CONTOSO}");
        let own = format!("{APP}{CONTOSO}source = '{source}'\ncloud = '{cloud}'\n");
        for text in [common, own] {
            let config = Etc::with(&text).good();
            let Endpoints { source: found, base_url, scope, other_scope, .. } =
                &config.tenants[0].endpoints;
            assert_eq!(found.as_str(), source);
            assert_eq!(base_url.as_str(), format!("{host}/"));
            let is_gcc = host.contains("api-gcc");
            let audience = if is_gcc { "https://api.security.microsoft.com" } else { host };
            assert_eq!(*scope, format!("{audience}/.default"), "{source} {cloud}");
            let is_either = source == "defender" && cloud != "commercial";
            assert_eq!(other_scope.is_some(), is_either, "{source} {cloud}");
            assert_ne!(other_scope.as_ref(), Some(scope));
        }
    }
}

#[test]
fn address_of_one_source_is_unused_by_other() {
    let regional = "https://api-eu.security.microsoft.com";
    let text =
        format!("[api]\nbase_url = '{regional}'\n{APP}{CONTOSO}source = 'graph'\n{FABRIKAM}");
    let config = Etc::with(&text).good();
    let [contoso, fabrikam] = &config.tenants[..] else { panic!("two tenants") };
    assert_eq!(contoso.endpoints.base_url.as_str(), "https://graph.microsoft.com/");
    assert_eq!(contoso.endpoints.scope, "https://graph.microsoft.com/.default");
    assert_eq!(contoso.other_endpoints.base_url.as_str(), format!("{regional}/"));
    assert_eq!(fabrikam.endpoints.base_url.as_str(), format!("{regional}/"));
    assert_eq!(fabrikam.other_endpoints.base_url.as_str(), "https://graph.microsoft.com/");
    // A gateway may serve both.
    let gateway = format!(
        "[api]\nbase_url = 'https://gateway.example.com'\n{APP}{CONTOSO}source = 'graph'\n"
    );
    let config = Etc::with(&gateway).good();
    assert_eq!(config.tenants[0].endpoints.base_url.as_str(), "https://gateway.example.com/");
}

#[test]
fn wrong_source_cloud_or_host_is_rejected() {
    let error = |own: &str| Etc::with(&format!("{APP}{CONTOSO}{own}")).errors().join("\n");
    assert!(
        error("source = 'sentinel'\n").contains("source: unknown source; valid: defender, graph")
    );
    assert!(error("cloud = '21vianet'\n").contains("offers no incidents API in this cloud"));
    let host = error("source = 'graph'\nbase_url = 'https://api.security.microsoft.com'\n");
    assert!(host.contains("base_url: belongs to source \"defender\""), "{host}");
    let scope = error("scope = 'https://graph.microsoft.com/.default'\n");
    assert!(scope.contains("scope: belongs to source \"graph\""), "{scope}");
}

#[test]
fn quota_has_defaults_by_source() {
    let config = Etc::with(&format!("{APP}{CONTOSO}")).good();
    let Sync { defender_calls, graph_calls, .. } = config.sync;
    assert_eq!(defender_calls, CallLimits { per_minute: 50, per_hour: Some(1_500) });
    assert_eq!(graph_calls, CallLimits { per_minute: 100, per_hour: None });
    let lowered =
        "[sync]\ncalls_per_minute = 20\ngraph_calls_per_minute = 30\ngraph_calls_per_hour = 600\n";
    let Sync { defender_calls, graph_calls, .. } =
        Etc::with(&format!("{lowered}{APP}{CONTOSO}")).good().sync;
    assert_eq!(defender_calls, CallLimits { per_minute: 20, per_hour: Some(1_500) });
    assert_eq!(graph_calls, CallLimits { per_minute: 30, per_hour: Some(600) });
}
