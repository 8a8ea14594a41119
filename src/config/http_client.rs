//! `[http_client]`: proxy and certificate authorities on the path to Microsoft.

use reqwest::{Certificate, Proxy};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::secrets::SecretFiles;
use super::section::{Parsed, Report, Section};
use crate::http_client::{self, ProxyChoice, Route};

const FORM: &str = "write it like http://user@proxy.example.com:3128, or \"environment\"";

pub(super) fn read(mut section: Section, secrets: &SecretFiles, report: &mut Report) -> Route {
    let password = section.parsed("proxy_password_file", |name| secrets.read(name));
    let proxy = section.parsed("proxy", |text| parse_proxy(text, password.clone().ok().as_ref()));
    if matches!(
        (&password, &proxy),
        (Parsed::Is(_), Parsed::Absent | Parsed::Is(ProxyChoice::Environment))
    ) {
        section.error(
            "proxy_password_file",
            "has no effect without a URL in proxy; set it too, or remove this key",
        );
    }
    let authorities = section.parsed("ca_file", |name| {
        let path = secrets.folder.join(name);
        let cure = "name a PEM file with the certificate of the authority";
        let cannot = |error: &dyn std::fmt::Display| {
            format!("cannot read {}: {error}; {cure}", path.display())
        };
        let pem = std::fs::read(&path).map_err(|error| cannot(&error))?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(authorities)
                if !authorities.is_empty() && http_client::client_builds_with(&authorities) =>
            {
                Ok(authorities)
            }
            Ok(authorities) if !authorities.is_empty() => {
                Err(cannot(&"it contains an invalid certificate"))
            }
            _ => Err(cannot(&"it contains no certificate")),
        }
    });
    report.close(section);
    Route {
        proxy: proxy.ok().unwrap_or_default(),
        authorities: authorities.ok().unwrap_or_default(),
    }
}

/// No error repeats a part of the URL, because any part may contain the password.
fn parse_proxy(text: &str, password: Option<&SecretString>) -> Result<ProxyChoice, String> {
    if text == "environment" {
        return Ok(ProxyChoice::Environment);
    }
    let mut url = Url::parse(text).map_err(|error| format!("not a URL ({error}); {FORM}"))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("not the http:// or https:// URL of a proxy; {FORM}"));
    }
    if url.password().is_some() {
        return Err(
            "contains a password; move it into a file and set http_client.proxy_password_file"
                .to_owned(),
        );
    }
    if let Some(password) = password {
        if url.username().is_empty() {
            return Err(format!("has no user for the password of proxy_password_file; {FORM}"));
        }
        url.set_password(Some(password.expose_secret()))
            .map_err(|()| format!("cannot have a password; {FORM}"))?;
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let address = (host, url.port_or_known_default().unwrap_or(80));
    let proxy = Proxy::all(url).map_err(|_| format!("not usable; {FORM}"))?;
    Ok(ProxyChoice::At { proxy: Box::new(proxy), address })
}
