//! The simulated service of `demo` and `simulate`, and the command `simulate`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use simulator::{Behaviour, Clock, Encoding, Options, Simulator, TenantSpec, World};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output;
use crate::daemon::signals;
use crate::tenant::Source;

pub(super) const NAMES: [&str; 12] = [
    "contoso",
    "fabrikam",
    "northwind",
    "adatum",
    "tailspin",
    "wingtip",
    "litware",
    "proseware",
    "woodgrove",
    "alpine",
    "lucerne",
    "margie",
];
/// The customer whose admin has not consented.
pub(super) const WITHOUT_CONSENT: &str = "lucerne";
/// The customers that are read from Microsoft Graph.
pub(super) const ON_GRAPH: [&str; 2] = ["fabrikam", "tailspin"];
/// The customer whose quota is almost used up by another tool.
pub(super) const THROTTLED: &str = "margie";
const THROTTLED_CALLS_PER_MINUTE: u32 = 3;

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The number of tenants.
    #[arg(long, default_value_t = 12)]
    tenants: usize,
    /// The number of incidents for each tenant.
    #[arg(long, default_value_t = 120)]
    incidents: usize,
}

/// Runs the simulator until Ctrl-C.
pub async fn simulate(args: SimulateArgs) -> Result<(), Failure> {
    let SimulateArgs { listen, tenants, incidents } = args;
    let simulator = start_simulator(listen, tenants, incidents).await?;
    output::print_line(sample_configuration(&simulator))?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let changes = tokio::spawn(change_incidents(simulator.world().clone()));
    stop.cancelled().await;
    changes.abort();
    signals.abort();
    simulator.stop().await;
    Ok(())
}

/// A configuration for the simulator; one tenant is read from Graph.
fn sample_configuration(simulator: &Simulator) -> String {
    let Options { client_id, client_secret, .. } = Options::default();
    let url = simulator.url();
    let mut text = format!(
        "[app]\nclient_id = \"{client_id}\"\nclient_secret = \"{client_secret}\"\n\n[api]\nauthority = \"{url}\"\nbase_url = \"{url}\"\n"
    );
    for (at, id) in simulator.world().tenants().into_iter().enumerate() {
        let name = name(at);
        text.push_str(&format!("\n[[tenants]]\nid = \"{id}\"\nname = \"{name}\"\n"));
        if name == ON_GRAPH[0] {
            text.push_str("source = \"graph\"\n");
        }
    }
    text
}

pub(super) fn name(at: usize) -> String {
    let round = at / NAMES.len();
    let name = NAMES[at % NAMES.len()];
    if round == 0 { name.to_owned() } else { format!("{name}-{round}") }
}

pub(super) fn tenant_id(at: usize) -> Uuid {
    Uuid::from_u128(0x00de_0000_0000_4000_8000_0000_0000_0000 + at as u128 + 1)
}

pub(super) async fn start_simulator(
    listen: SocketAddr,
    tenants: usize,
    incidents: usize,
) -> Result<Simulator, Failure> {
    let options =
        Options { listen, clock: Clock::Real, encoding: Encoding::Gzip, ..Options::default() };
    let simulator = Simulator::start(options).await;
    let simulator = simulator.map_err(|error| {
        Failure::Configuration(format!("the simulator cannot listen on {listen}: {error}"))
    })?;
    let world = simulator.world().clone();
    let seed = move || {
        for at in 0..tenants {
            let name = name(at);
            let consent_missing = name == WITHOUT_CONSENT;
            let calls_per_minute = if name == THROTTLED {
                THROTTLED_CALLS_PER_MINUTE
            } else {
                Source::Defender.calls_per_minute()
            };
            let behaviour = Behaviour { consent_missing, ..Behaviour::default() };
            world.add_tenant(TenantSpec {
                incidents,
                calls_per_minute,
                behaviour,
                ..TenantSpec::new(tenant_id(at), &name)
            });
        }
    };
    tokio::task::spawn_blocking(seed)
        .await
        .map_err(|error| Failure::Configuration(error.to_string()))?;
    Ok(simulator)
}

/// Changes one incident every second, the tenants in turn.
pub(super) async fn change_incidents(world: World) {
    let tenants = world.tenants();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for tenant in tenants.iter().cycle() {
        tick.tick().await;
        world.live(*tenant, 1);
    }
}
