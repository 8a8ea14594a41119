//! The command `consent-url`: the link for a customer's admin consent, and onboarding with `--listen`.

mod callback;
mod onboard;
mod prerequisites;
mod tenant_file;
mod verification;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use url::Url;
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::config::Config;
use crate::entra::Tenant;
use crate::entra::credential::App;
use crate::tenant::{Cloud, Endpoints, Source, TenantId};

/// The default redirect.
const PORTAL: &str = "https://portal.azure.com";

#[derive(Debug, Args)]
pub struct ConsentArgs {
    /// A configured tenant, by name or id, or the directory id of a new customer. Default: the directory that the admin
    /// signs in to.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Accept any directory without confirmation; the tenant id is taken from the redirect.
    #[arg(long, requires = "listen", conflicts_with = "tenant")]
    any_tenant: bool,
    /// The cloud of a new customer. Default: that of `[api]`.
    #[arg(long, value_parser = Cloud::NAMES)]
    cloud: Option<String>,
    /// The API to request the permission of: `both` prepares a move with one consent, and implies --v1. Default: the API that
    /// the tenant is read from.
    #[arg(long, value_parser = ["defender", "graph", "both"])]
    source: Option<String>,
    /// Use the older (v1) form of the link, which requests every permission of the registration, not only that of one API.
    #[arg(long)]
    v1: bool,
    /// The redirect URI, which the app registration must list. Default: `https://portal.azure.com`, with --listen
    /// `http://localhost:PORT/consent`.
    #[arg(long, value_name = "URL")]
    redirect_uri: Option<String>,
    /// Wait on this machine for the redirect, verify the consent with a token and one call, and write the tenant's file
    /// into `tenants_dir`.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:8765", requires = "name")]
    listen: Option<SocketAddr>,
    /// The name of the customer in reports and metrics.
    #[arg(long, requires = "listen")]
    name: Option<String>,
    /// Print the tenant's configuration instead of writing its file. Implied without `tenants_dir`.
    #[arg(long, requires = "listen")]
    print: bool,
    /// How long to wait for the admin.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// How long to retry a token that Entra refuses: a consent takes up to some minutes to take effect.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl ConsentArgs {
    /// The one API that is named.
    fn single_source(&self) -> Option<Source> {
        self.source.as_deref().and_then(Source::from_name)
    }

    fn is_for_both(&self) -> bool {
        self.source.as_deref() == Some("both")
    }
}

struct ConsentRequest {
    app: Arc<App>,
    /// Of the API that the tenant is read from after the consent.
    endpoints: Endpoints,
    /// Of the other API, whose permission is requested as well if `is_for_both`.
    other_endpoints: Endpoints,
    is_for_both: bool,
    /// `None` for the directory that the admin signs in to.
    directory: Option<TenantId>,
}

/// Prints the link, or onboards the customer who opens it. `file` is the configuration named on the command line.
pub async fn run(config: &Config, file: Option<&Path>, args: &ConsentArgs) -> Result<(), Failure> {
    if let Some(listen) = args.listen {
        return onboard::onboard(config, file, args, listen).await;
    }
    let redirect_uri = args.redirect_uri.as_deref().unwrap_or(PORTAL);
    let state = Uuid::new_v4().to_string();
    let request = ConsentRequest::of(config, args)?;
    let url = request.link(args.v1, redirect_uri, &state)?;
    let value = json!({ "url": url.as_str(), "state": state, "sources": request.sources() });
    print(args.json, &value, || url.to_string())
}

/// The link for the admin of a configured tenant, for the permission of the source that it is read from.
pub(crate) fn link_of(tenant: &Tenant) -> Result<Url, Failure> {
    let request = ConsentRequest {
        app: Arc::clone(&tenant.app),
        endpoints: tenant.endpoints.clone(),
        other_endpoints: tenant.other_endpoints.clone(),
        is_for_both: false,
        directory: Some(tenant.id),
    };
    request.link(false, PORTAL, &Uuid::new_v4().to_string())
}

impl ConsentRequest {
    fn of(config: &Config, args: &ConsentArgs) -> Result<Self, Failure> {
        let cloud = args.cloud.as_deref().and_then(Cloud::from_name);
        if let Some(tenant) = args.tenant.as_deref().and_then(|name| config.tenant(name)) {
            if cloud.is_some() {
                let problem = format!("{} has a configured cloud. Remove --cloud", tenant.name);
                return Err(Failure::Configuration(problem));
            }
            let app = Arc::clone(&tenant.app);
            let source = args.single_source().unwrap_or(tenant.source());
            let Tenant { endpoints, other_endpoints, .. } = tenant.read_from(source);
            if app.client_id.is_empty() {
                let problem = format!(
                    "{} is disabled and has no application. Set client_id in [app]",
                    tenant.name
                );
                return Err(Failure::Configuration(problem));
            }
            let directory = Some(tenant.id);
            let is_for_both = args.is_for_both();
            return Ok(Self { app, endpoints, other_endpoints, is_for_both, directory });
        }
        let wrong = |name: &str| {
            Failure::Configuration(format!(
                "--tenant: {name} is neither a configured tenant nor a directory id"
            ))
        };
        let parse = |name: &String| name.parse().map(TenantId).map_err(|_| wrong(name));
        let directory = args.tenant.as_ref().map(parse).transpose()?;
        let app = config.onboarding.app.clone().ok_or_else(|| {
            Failure::Configuration(
                "[app] is not configured. Set client_id and a credential".to_owned(),
            )
        })?;
        let source = args.single_source().unwrap_or(config.onboarding.source());
        Ok(Self {
            app,
            endpoints: config.onboarding.endpoints(cloud, source),
            other_endpoints: config.onboarding.endpoints(cloud, source.other()),
            is_for_both: args.is_for_both(),
            directory,
        })
    }

    /// The APIs whose permission is requested.
    fn sources(&self) -> Vec<&'static str> {
        let both = [self.endpoints.source, self.other_endpoints.source];
        both.iter()
            .take(if self.is_for_both { 2 } else { 1 })
            .map(|source| source.as_str())
            .collect()
    }

    /// Who may consent. Source: `MicrosoftDocs/entra-docs`, `grant-admin-consent.md`: application permissions of Microsoft Graph
    /// need one of the two higher roles.
    fn administrators(&self) -> &'static str {
        if self.is_for_both || self.endpoints.source == Source::Graph {
            "Global or Privileged Role Administrator"
        } else {
            "Global, Privileged Role or Cloud Application Administrator"
        }
    }

    /// The tenant as it is read from each of these APIs.
    fn tenants(&self, id: TenantId, name: &str) -> Vec<Arc<Tenant>> {
        let app = Arc::clone(&self.app);
        let tenant = Tenant {
            other_endpoints: self.other_endpoints.clone(),
            ..Tenant::with_defaults(id, name, self.endpoints.clone(), app)
        };
        let other = self.is_for_both.then(|| tenant.read_from(self.other_endpoints.source));
        [tenant].into_iter().chain(other).map(Arc::new).collect()
    }

    /// A scope names one resource, so permissions of two need the v1 form, which requests all that the registration lists. One
    /// link with one click is less work for the customer than two.
    ///
    /// The v2 form accepts application permissions only as `/.default`, and does not support `common`. Source:
    /// `MicrosoftDocs/entra-docs`, `v2-admin-consent.md` and `v2-oauth2-client-creds-grant-flow.md`.
    fn link(&self, v1: bool, redirect_uri: &str, state: &str) -> Result<Url, Failure> {
        let v1 = v1 || self.is_for_both;
        let (any, path) =
            if v1 { ("common", "adminconsent") } else { ("organizations", "v2.0/adminconsent") };
        let directory = self.directory.map_or_else(|| any.to_owned(), |id| id.to_string());
        let authority = self.endpoints.authority.as_str().trim_end_matches('/');
        let scope = (!v1).then_some(("scope", self.endpoints.scope.as_str()));
        let common = [
            ("client_id", self.app.client_id.as_str()),
            ("redirect_uri", redirect_uri),
            ("state", state),
        ];
        let url = Url::parse_with_params(
            &format!("{authority}/{directory}/{path}"),
            common.into_iter().chain(scope),
        );
        url.map_err(|error| Failure::Configuration(format!("cannot create the link: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::entra::credential::Credential;
    use crate::tenant::TokenVersion;

    const CUSTOMER: TenantId = TenantId(Uuid::from_u128(7));

    fn link(
        cloud: Cloud,
        directory: Option<TenantId>,
        v1: bool,
    ) -> (String, BTreeMap<String, String>) {
        link_for((Source::Defender, false), cloud, directory, v1)
    }

    fn link_for(
        (source, is_for_both): (Source, bool),
        cloud: Cloud,
        directory: Option<TenantId>,
        v1: bool,
    ) -> (String, BTreeMap<String, String>) {
        let app = App {
            client_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            credential: Arc::new(Credential::secret("never shown".into())),
            next: None,
        };
        let of = |source| Endpoints {
            source,
            authority: Url::parse(cloud.authority()).unwrap(),
            base_url: Url::parse(cloud.base_url(source)).unwrap(),
            scope: format!("{}/.default", cloud.base_url(source)),
            other_scope: None,
            token_version: TokenVersion::V2,
        };
        let request = ConsentRequest {
            app: Arc::new(app),
            endpoints: of(source),
            other_endpoints: of(source.other()),
            is_for_both,
            directory,
        };
        let url = request.link(v1, "http://localhost:8765/a?b=c", "s&t").unwrap();
        let parameters = url
            .query_pairs()
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        (url.as_str().split('?').next().unwrap().to_owned(), parameters)
    }

    #[test]
    fn link_matches_cloud_and_form() {
        for (cloud, host, api) in [
            (Cloud::Commercial, "login.microsoftonline.com", "https://api.security.microsoft.com"),
            (Cloud::Gcc, "login.microsoftonline.com", "https://api-gcc.security.microsoft.us"),
            (Cloud::GccHigh, "login.microsoftonline.us", "https://api-gov.security.microsoft.us"),
            (Cloud::Dod, "login.microsoftonline.us", "https://api-gov.security.microsoft.us"),
        ] {
            let (v2, parameters) = link(cloud, Some(CUSTOMER), false);
            assert_eq!(v2, format!("https://{host}/{CUSTOMER}/v2.0/adminconsent"));
            assert_eq!(parameters["scope"], format!("{api}/.default"));
            let (v1, parameters) = link(cloud, Some(CUSTOMER), true);
            assert_eq!(v1, format!("https://{host}/{CUSTOMER}/adminconsent"));
            assert!(!parameters.contains_key("scope"), "{parameters:?}");
        }
    }

    #[test]
    fn link_asks_for_permission_of_source() {
        let graph = |cloud| link_for((Source::Graph, false), cloud, Some(CUSTOMER), false).1;
        for (cloud, api) in [
            (Cloud::Commercial, "https://graph.microsoft.com"),
            (Cloud::Gcc, "https://graph.microsoft.com"),
            (Cloud::GccHigh, "https://graph.microsoft.us"),
            (Cloud::Dod, "https://dod-graph.microsoft.us"),
        ] {
            assert_eq!(graph(cloud)["scope"], format!("{api}/.default"));
        }
        for source in [Source::Defender, Source::Graph] {
            let (both, parameters) =
                link_for((source, true), Cloud::Commercial, Some(CUSTOMER), false);
            let expected = format!("https://login.microsoftonline.com/{CUSTOMER}/adminconsent");
            assert_eq!(both, expected, "one link for both");
            assert!(!parameters.contains_key("scope"), "{parameters:?}");
        }
    }

    #[test]
    fn link_for_any_customer_names_common_directory() {
        assert!(
            link(Cloud::Commercial, None, false)
                .0
                .ends_with(".com/organizations/v2.0/adminconsent")
        );
        assert!(link(Cloud::Commercial, None, true).0.ends_with(".com/common/adminconsent"));
    }

    #[test]
    fn link_parameters_are_escaped() {
        for v1 in [false, true] {
            let (_, parameters) = link(Cloud::Commercial, None, v1);
            assert_eq!(parameters["redirect_uri"], "http://localhost:8765/a?b=c");
            assert_eq!(parameters["state"], "s&t");
            assert_eq!(parameters["client_id"], "11111111-2222-3333-4444-555555555555");
        }
    }
}
