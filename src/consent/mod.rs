//! How a customer is taken on: the link by which its admin consents.

use clap::Args;
use serde_json::json;
use url::Url;
use uuid::Uuid;

use crate::cli::{Failure, find_tenant, print};
use crate::config::Config;
use crate::entra::credential::App;
use crate::tenant::{Cloud, Endpoints, TenantId};

/// Where an admin who needs no answer ends up.
const PORTAL: &str = "https://portal.azure.com";

/// Whose consent is asked for, and in which form.
#[derive(Debug, Args)]
pub struct ConsentArgs {
    /// A configured tenant, by name or id, or the GUID of a new customer; without it, whichever tenant the admin signs in to.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// The cloud of a new customer, where it is another one than that of [api].
    #[arg(long, value_parser = Cloud::NAMES)]
    cloud: Option<String>,
    /// The older (v1) form of the link: asks for every permission of the registration instead of those of the Defender API.
    #[arg(long)]
    v1: bool,
    /// Where Entra sends the admin afterwards; must be a redirect URI of the app registration.
    #[arg(long, value_name = "URL", default_value = PORTAL)]
    redirect_uri: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Whom the link is for and what asks.
struct Asking<'a> {
    app: &'a App,
    endpoints: Endpoints,
    /// `None` where the admin's own sign-in decides.
    directory: Option<TenantId>,
}

/// Prints the link.
pub fn run(config: &Config, args: &ConsentArgs) -> Result<(), Failure> {
    let state = Uuid::new_v4().to_string();
    let url = Asking::of(config, args)?.link(args.v1, &args.redirect_uri, &state)?;
    print(args.json, &json!({ "url": url.as_str(), "state": state }), || url.to_string());
    Ok(())
}

impl<'a> Asking<'a> {
    fn of(config: &'a Config, args: &ConsentArgs) -> Result<Self, Failure> {
        let cloud = args.cloud.as_deref().and_then(Cloud::from_name);
        if let Some(tenant) = args.tenant.as_deref().and_then(|name| find_tenant(config, name)) {
            if cloud.is_some() {
                let problem = format!("{} is configured, and its cloud with it; leave --cloud out", tenant.name);
                return Err(Failure::Configuration(problem));
            }
            return Ok(Self { app: &tenant.app, endpoints: tenant.endpoints.clone(), directory: Some(tenant.id) });
        }
        let wrong = |name: &str| Failure::Configuration(format!("{name} is neither a configured tenant nor a GUID"));
        let parse = |name: &String| name.parse().map(TenantId).map_err(|_| wrong(name));
        let directory = args.tenant.as_ref().map(parse).transpose()?;
        let app = config.newcomers.app.as_deref().ok_or_else(|| {
            Failure::Configuration("[app] must be configured first: client_id and a credential".to_owned())
        })?;
        Ok(Self { app, endpoints: config.newcomers.endpoints(cloud), directory })
    }

    /// The v2 form takes application permissions only by `/.default`, and knows no `common`. Source:
    /// `MicrosoftDocs/entra-docs`, `v2-admin-consent.md` and `v2-oauth2-client-creds-grant-flow.md`.
    fn link(&self, v1: bool, redirect_uri: &str, state: &str) -> Result<Url, Failure> {
        let (any, path) = if v1 { ("common", "adminconsent") } else { ("organizations", "v2.0/adminconsent") };
        let directory = self.directory.map_or_else(|| any.to_owned(), |id| id.to_string());
        let authority = self.endpoints.authority.as_str().trim_end_matches('/');
        let scope = (!v1).then_some(("scope", self.endpoints.scope.as_str()));
        let common = [("client_id", self.app.client_id.as_str()), ("redirect_uri", redirect_uri), ("state", state)];
        let url = Url::parse_with_params(&format!("{authority}/{directory}/{path}"), common.into_iter().chain(scope));
        url.map_err(|error| Failure::Configuration(format!("the link cannot be made: {error}")))
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

    fn asked(cloud: Cloud, directory: Option<TenantId>, v1: bool) -> (String, BTreeMap<String, String>) {
        let app = App {
            client_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            credential: Arc::new(Credential::secret("never shown".into())),
            next: None,
        };
        let endpoints = Endpoints {
            authority: Url::parse(cloud.authority()).unwrap(),
            base_url: Url::parse(cloud.base_url()).unwrap(),
            scope: format!("{}/.default", cloud.base_url()),
            token_version: TokenVersion::V2,
        };
        let url = Asking { app: &app, endpoints, directory }.link(v1, "http://localhost:8765/a?b=c", "s&t").unwrap();
        let parameters = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        (url.as_str().split('?').next().unwrap().to_owned(), parameters)
    }

    #[test]
    fn each_form_of_the_link_has_what_entra_wants_in_each_cloud() {
        for (cloud, host, api) in [
            (Cloud::Commercial, "login.microsoftonline.com", "https://api.security.microsoft.com"),
            (Cloud::Gcc, "login.microsoftonline.com", "https://api-gcc.security.microsoft.us"),
            (Cloud::GccHigh, "login.microsoftonline.us", "https://api-gov.security.microsoft.us"),
            (Cloud::Dod, "login.microsoftonline.us", "https://api-gov.security.microsoft.us"),
        ] {
            let (v2, parameters) = asked(cloud, Some(CUSTOMER), false);
            assert_eq!(v2, format!("https://{host}/{CUSTOMER}/v2.0/adminconsent"));
            assert_eq!(parameters["scope"], format!("{api}/.default"));
            let (v1, parameters) = asked(cloud, Some(CUSTOMER), true);
            assert_eq!(v1, format!("https://{host}/{CUSTOMER}/adminconsent"));
            assert!(!parameters.contains_key("scope"), "{parameters:?}");
        }
    }

    #[test]
    fn a_link_for_any_customer_names_the_directory_that_its_form_knows() {
        assert!(asked(Cloud::Commercial, None, false).0.ends_with(".com/organizations/v2.0/adminconsent"));
        assert!(asked(Cloud::Commercial, None, true).0.ends_with(".com/common/adminconsent"));
    }

    #[test]
    fn the_parameters_come_through_whatever_is_in_them() {
        for v1 in [false, true] {
            let (_, parameters) = asked(Cloud::Commercial, None, v1);
            assert_eq!(parameters["redirect_uri"], "http://localhost:8765/a?b=c");
            assert_eq!(parameters["state"], "s&t");
            assert_eq!(parameters["client_id"], "11111111-2222-3333-4444-555555555555");
        }
    }
}
