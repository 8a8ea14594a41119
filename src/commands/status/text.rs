//! The status for people, at the width of their terminal.

use std::collections::BTreeMap;

use textwrap::{Options, WordSeparator, WordSplitter, wrap};

use super::{FleetStatus, StatusArgs};
use crate::commands::output;
use crate::entra::expiry::CredentialExpiry;
use crate::store::status::{Standing, TenantStatus};
use crate::sync::problems::{Problem, problems, worst_first};
use crate::sync::tenant_state::{State, data_as_of, last_run, must_act};
use crate::tenant::Source;

const INDENT: &str = "  ";
/// Tenants of one problem that are listed without a filter: a line each where each is a task of its own.
const LISTED_MAX: usize = 20;
/// Below this number, the tenants of every problem get a line each.
const FEW: usize = 5;
/// Lines of names of the tenants that share a problem.
const NAME_LINES: usize = 3;
/// Credentials that are listed although they need no attention.
const CREDENTIALS_MAX: usize = 3;

pub(super) fn of(status: &FleetStatus<'_>, args: &StatusArgs) -> String {
    let width = usize::from(output::width());
    let mut blocks = vec![heading(status, width)];
    let found = problems(status.shown.iter().map(|tenant| &tenant.standing));
    let lists_all = args.all || args.is_filtered();
    blocks.extend(found.iter().map(|each| problem(each, width, lists_all)));
    if !args.tenants.is_empty() {
        blocks.extend(status.shown.iter().map(|tenant| facts(tenant)));
    } else if lists_all {
        blocks.push(table(&status.shown));
    }
    blocks.extend(rest(status, &found, lists_all));
    blocks.extend(credentials(status, width));
    blocks.join("\n")
}

/// The fleet in a few lines.
fn heading(status: &FleetStatus<'_>, width: usize) -> String {
    let time = status.now.format("%Y-%m-%d %H:%M:%S UTC");
    let mut lines = vec![format!("incident-sync {}, {time}", env!("CARGO_PKG_VERSION"))];
    let mut states = BTreeMap::<State, usize>::new();
    for tenant in status.fleet {
        *states.entry(State::of(&tenant.standing)).or_default() += 1;
    }
    let states: Vec<String> =
        states.iter().map(|(state, count)| format!("{count} {}", state.as_str())).collect();
    let count = status.fleet.len();
    lines.push(match count {
        0 => "No tenants. Add one: incident-sync consent-url --listen --name NAME".to_owned(),
        1 => format!("1 tenant: {}", states.join(", ")),
        _ => format!("{count} tenants: {}", states.join(", ")),
    });
    lines.extend(sources(status.fleet));
    lines.extend(status.retirement.as_ref().map(|notice| wrapped(&notice.describe(), "", width)));
    lines.join("\n") + "\n"
}

/// How many tenants are read from each source, while both are in use.
fn sources(fleet: &[TenantStatus]) -> Option<String> {
    let present = fleet.iter().filter(|tenant| tenant.standing.removed_at.is_none());
    let (graph, defender): (Vec<Source>, Vec<Source>) = present
        .filter_map(|tenant| Source::from_name(tenant.standing.source.as_deref()?))
        .partition(|source| *source == Source::Graph);
    let is_mixed = !graph.is_empty() && !defender.is_empty();
    is_mixed.then(|| format!("source: {} graph, {} defender", graph.len(), defender.len()))
}

/// Owner and class, what to do, and the tenants.
fn problem(problem: &Problem<'_>, width: usize, lists_all: bool) -> String {
    let owner = if problem.recovers() {
        "No action needed".to_owned()
    } else {
        problem.owner.to_uppercase()
    };
    let count = problem.tenants.len();
    let tenants = if count == 1 { "tenant" } else { "tenants" };
    let mut lines = vec![
        format!("{owner}: {}, {count} {tenants}", problem.class),
        wrapped(&problem.advice, INDENT, width),
    ];
    if count <= FEW || problem.is_of_customers() || lists_all {
        let listed = if lists_all { count } else { count.min(LISTED_MAX) };
        lines.extend(rows(&problem.tenants[..listed]));
        if listed < count {
            lines.push(more(count - listed, problem.owner));
        }
    } else {
        lines.extend(names(problem, width));
    }
    lines.join("\n") + "\n"
}

/// One line each, in columns.
fn rows(tenants: &[&Standing]) -> Vec<String> {
    let longest = tenants.iter().map(|tenant| console::measure_text_width(&tenant.name)).max();
    let row = |tenant: &&Standing| {
        let name = console::pad_str(
            &tenant.name,
            longest.unwrap_or_default(),
            console::Alignment::Left,
            None,
        );
        let state = State::of(tenant).as_str();
        format!("{INDENT}{name}  {state:10}  data as of: {}", data_as_of(tenant))
    };
    tenants.iter().map(row).collect()
}

/// As many names as a few lines hold.
fn names(problem: &Problem<'_>, width: usize) -> Vec<String> {
    let names: Vec<&str> = problem.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    let lines = |count: usize| wrapped(&names[..count].join(", "), INDENT, width);
    let counts: Vec<usize> = (1..=names.len()).collect();
    let listed = counts.partition_point(|count| lines(*count).lines().count() <= NAME_LINES);
    let left = names.len() - listed;
    let more = (left > 0).then(|| more(left, problem.owner));
    [lines(listed)].into_iter().chain(more).collect()
}

fn more(count: usize, owner: &str) -> String {
    format!("{INDENT}and {count} more: incident-sync status --owner {owner}")
}

/// The tenants without a problem, as a number.
fn rest(status: &FleetStatus<'_>, found: &[Problem<'_>], lists_all: bool) -> Option<String> {
    let affected: usize = found.iter().map(|problem| problem.tenants.len()).sum();
    let healthy = status.shown.len().saturating_sub(affected);
    let more = if found.is_empty() { "" } else { " more" };
    (healthy > 0 && !lists_all).then(|| {
        let need = if healthy == 1 { "tenant needs" } else { "tenants need" };
        format!("{healthy}{more} {need} no action: incident-sync status --all\n")
    })
}

/// The credentials that need attention, and all of them where they are few.
fn credentials(status: &FleetStatus<'_>, width: usize) -> Option<String> {
    let needs_attention = |credential: &&CredentialExpiry| {
        status.expiries.len() <= CREDENTIALS_MAX
            || credential.problem.is_some()
            || credential.stage(status.now).is_some()
    };
    let lines: Vec<String> = status
        .expiries
        .iter()
        .filter(needs_attention)
        .map(|credential| wrapped(&credential.describe(status.now), "", width))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Every number of one tenant.
fn facts(tenant: &TenantStatus) -> String {
    let TenantStatus { standing, incidents, open_incidents, watermark, .. } = tenant;
    let moment = |time: Option<chrono::DateTime<chrono::Utc>>| {
        time.map_or_else(
            || "never".to_owned(),
            |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        )
    };
    let (owner, what) = must_act(standing).unwrap_or(("nobody", "No action is needed"));
    let facts = [
        ("tenant", standing.name.clone()),
        ("id", standing.tenant_id.to_string()),
        ("state", State::of(standing).as_str().to_owned()),
        ("who must act", owner.to_owned()),
        ("what", what.to_owned()),
        ("source", standing.source.clone().unwrap_or_default()),
        ("data as of", format!("{} ({})", data_as_of(standing), moment(standing.last_success_at))),
        ("watermark", moment(*watermark)),
        ("last run", format!("{}, {}", last_run(standing), moment(standing.last_finished_at))),
        ("failures", standing.consecutive_failures.unwrap_or(0).to_string()),
        ("incidents", format!("{incidents}, of which {open_incidents} are open")),
        ("quarantined", standing.rejected.to_string()),
        ("found late", found_late(standing)),
        ("gaps", standing.gaps.to_string()),
    ];
    facts.iter().map(|(name, value)| format!("{name:14}{value}\n")).collect()
}

/// How many changes polls had missed, and how late the latest of the last two days was listed.
fn found_late(standing: &Standing) -> String {
    let count = standing.found_late.unwrap_or(0).to_string();
    match standing.lateness_seconds {
        Some(seconds) if seconds > 0 => format!("{count}, up to {} min late", (seconds + 59) / 60),
        _ => count,
    }
}

/// One line for each tenant, worst first; what they need is said above.
fn table(tenants: &[&TenantStatus]) -> String {
    let mut tenants = tenants.to_vec();
    tenants.sort_by(|left, right| worst_first(&left.standing, &right.standing));
    let mut table = output::table(["tenant", "state", "source", "data as of", "incidents", "open"]);
    for TenantStatus { standing, incidents, open_incidents, .. } in tenants {
        table.add_row([
            standing.name.clone(),
            State::of(standing).as_str().to_owned(),
            standing.source.clone().unwrap_or_default(),
            data_as_of(standing),
            incidents.to_string(),
            open_incidents.to_string(),
        ]);
    }
    format!("{table}\n")
}

/// Breaks at spaces alone, so that codes and ids stay whole.
fn wrapped(text: &str, indent: &str, width: usize) -> String {
    let options = Options::new(width)
        .initial_indent(indent)
        .subsequent_indent(indent)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    wrap(text, options).join("\n")
}
