//! `consent-url --listen`: from the link to the tenant's file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::callback::ConsentCallback;
use super::prerequisites::{
    check_cloud, check_confirmable, check_connectivity, check_name, check_unknown, free_path,
};
use super::verification::await_consent;
use super::{ConsentArgs, ConsentRequest, tenant_file};
use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::config::{self, Config};
use crate::daemon::http::server;
use crate::daemon::signals;
use crate::doctor;
use crate::entra::Tenant;

/// The path of the redirect URI that the app registration must have.
const PATH: &str = "/consent";

/// More than the service needs: it polls every few seconds and waits until the directory stops changing.
const PICK_UP_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn onboard(
    config: &Config,
    file: Option<&Path>,
    args: &ConsentArgs,
    listen: SocketAddr,
) -> Result<(), Failure> {
    let request = ConsentRequest::of(config, args)?;
    check_cloud(config, args)?;
    check_confirmable(args)?;
    let name = args.name.as_deref().unwrap_or_default().trim();
    check_name(name)?;
    request.directory.map_or(Ok(()), |id| check_unknown(config, id))?;
    let path = free_path(config, name, args.print)?;
    if !listen.ip().is_loopback() {
        return Err(Failure::Configuration(format!(
            "--listen must be a loopback address, such as 127.0.0.1; {listen} is not"
        )));
    }
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| {
        Failure::Configuration(format!("cannot listen on {listen}: {error}. Choose another port"))
    })?;
    let address =
        listener.local_addr().map_err(|error| Failure::Configuration(error.to_string()))?;
    let redirect_uri = args
        .redirect_uri
        .clone()
        .unwrap_or_else(|| format!("http://localhost:{}{PATH}", address.port()));
    let parsed = Url::parse(&redirect_uri)
        .map_err(|error| Failure::Configuration(format!("--redirect-uri: {error}")))?;
    check_connectivity(config, &request, name).await?;
    let state = Uuid::new_v4().to_string();
    let link = request.link(args.v1, &redirect_uri, &state)?;
    let mut callback = ConsentCallback::start(listener, parsed.path(), &state, &request);
    let wait = humantime::format_duration(args.wait);
    eprintln!("Open this link as {} of the customer:\n\n{link}\n", request.administrators());
    eprintln!(
        "Waiting {wait} at {redirect_uri}, which the app registration must list as a redirect URI. Press Ctrl-C to stop."
    );

    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let verified = await_consent(config, &request, args, name, &mut callback, &stop).await;
    callback.close().await;
    signals.abort();
    let tenant = verified?;
    let written = write_tenant_file(config, &request, file, args, &tenant, path)?;
    match written {
        Some(path) => report_daemon_state(config, &tenant, &path).await,
        None => eprintln!("Then run: systemctl reload incident-sync"),
    }
    Ok(())
}

/// Reports whether the running service has picked up the file.
async fn report_daemon_state(config: &Config, tenant: &Tenant, path: &Path) {
    for path in [path.parent(), Some(path)]
        .into_iter()
        .flatten()
        .filter(|path| doctor::is_readable_by_root_only(path))
    {
        let path = path.display();
        eprintln!("Warning: {path} is not readable by the service user. Run: chmod go+rX {path}");
    }
    let listen = config.http.listen;
    let start = Instant::now();
    loop {
        match server::has_tenant(listen, tenant.id).await {
            None => {
                return eprintln!(
                    "No service answers on {listen}. The tenant is synced after the next start."
                );
            }
            Some(true) => return eprintln!("The running service has picked up the tenant."),
            Some(false) if start.elapsed() >= PICK_UP_TIMEOUT => {
                return eprintln!(
                    "The service on {listen} has not picked up the tenant within {} s. See its log and run: incident-sync config check",
                    PICK_UP_TIMEOUT.as_secs()
                );
            }
            Some(false) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Writes the file. The configuration may have changed meanwhile; if the file cannot be written, its content is printed, so
/// that the admin need not consent again.
fn write_tenant_file(
    config: &Config,
    request: &ConsentRequest,
    file: Option<&Path>,
    args: &ConsentArgs,
    tenant: &Tenant,
    path: Option<PathBuf>,
) -> Result<Option<PathBuf>, Failure> {
    let default_source = config.onboarding.source();
    let current = config::load(file).map_err(|errors| Failure::Configuration(errors.to_string()));
    if let Ok(config) = &current {
        check_unknown(config, tenant.id)?;
    }
    let text = tenant_file::text(tenant, args.cloud.as_deref(), default_source);
    let written = match &path {
        None => Ok(()),
        Some(path) => {
            current.and_then(|config| free_path(&config, &tenant.name, false)).and_then(|_| {
                tenant_file::write(path, &text).map_err(|error| {
                    Failure::Configuration(format!("cannot write {}: {error}", path.display()))
                })
            })
        }
    };
    let path = path.filter(|_| written.is_ok());
    let block = format!("[[tenants]]\n{text}");
    let value = json!({
        "tenant_id": tenant.id.to_string(),
        "name": tenant.name,
        "source": tenant.source().as_str(),
        "sources": request.sources(),
        "file": path,
        "block": block,
    });
    let printed = print(args.json, &value, || match &path {
        Some(path) => format!("Verified {} and wrote {}", tenant.name, path.display()),
        None => block.trim_end().to_owned(),
    });
    if path.is_none() {
        eprintln!("Verified {}. Add these lines to the configuration.", tenant.name);
    }
    written.and(printed).map(|()| path)
}
