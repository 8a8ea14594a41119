//! From what was seen to rows that say what is wrong and who must do what. Nothing here asks anybody.

use chrono::{DateTime, TimeDelta, Utc};

use super::network::{Egress, Host, HostFacts};
use super::tenant::{TenantProbe, TokenFacts};
use super::{CheckResult, DatabaseFacts, ErrorText, Facts, Finding, Group};
use crate::entra::claims::TokenCheck;
use crate::entra::expiry::CredentialExpiry;
use crate::error::{ErrorClass, Owner, SyncError};
use crate::postgres::programs::OLDEST_MAJOR;
use crate::store::inspect::{Inspection, SchemaState};

mod sessions;
mod unreachable;

pub use unreachable::unreachable_database;
use unreachable::unreachable_host;

/// Entra refuses assertions that begin later than its own clock says, less five minutes.
const CLOCK_FAILS: i64 = 300;
const CLOCK_WARNS: i64 = 60;
/// A certificate that ends sooner deserves a word to whoever runs the host or the proxy.
const CERTIFICATE_WARNS: TimeDelta = TimeDelta::days(7);

/// All rows, in the order in which the steps build on one another.
pub fn diagnose(facts: &Facts, now: DateTime<Utc>) -> Vec<Finding> {
    let mut rows = configuration(facts);
    rows.extend(connectivity(&facts.expiries, &facts.egress, &facts.hosts, now));
    rows.extend(database(&facts.database));
    rows.extend(facts.tenants.iter().flat_map(|seen| tenant(seen, &facts.tenants)));
    rows
}

/// Those of the application and of the way to Microsoft.
pub fn connectivity(
    expiries: &[CredentialExpiry],
    egress: &Egress,
    hosts: &[Host],
    now: DateTime<Utc>,
) -> Vec<Finding> {
    let mut rows: Vec<Finding> = expiries.iter().map(|ending| ending.finding(now)).collect();
    rows.extend(proxy(egress));
    rows.extend(hosts.iter().flat_map(|host| host_rows(host, egress, now)));
    rows
}

/// Rows of one part and one subject, a check each.
struct FindingBuilder<'a> {
    group: Group,
    about: &'a str,
}

impl FindingBuilder<'_> {
    fn row(
        &self,
        check: &'static str,
        result: CheckResult,
        who: Option<&'static str>,
        say: impl Into<String>,
    ) -> Finding {
        let (group, about, say) = (self.group, self.about.to_owned(), say.into());
        Finding { group, check, about, result, who_must_act: who, advice: say, error: None }
    }

    fn ok(&self, check: &'static str, say: impl Into<String>) -> Finding {
        self.row(check, CheckResult::Ok, None, say)
    }

    fn warning(&self, check: &'static str, say: impl Into<String>) -> Finding {
        self.row(check, CheckResult::Warning, Some(OPERATOR), say)
    }

    fn failure(&self, check: &'static str, say: impl Into<String>) -> Finding {
        self.row(check, CheckResult::Failure, Some(OPERATOR), say)
    }

    fn not_tried(&self, check: &'static str, because: &str) -> Finding {
        self.row(check, CheckResult::NotTried, None, because)
    }

    /// By the one table of errors. A pause is no fault: it passes, and until then nobody is asked.
    fn error(&self, check: &'static str, error: &SyncError) -> Finding {
        let diagnosis = error.diagnosis();
        let result = match error {
            SyncError::Paused { .. } | SyncError::EntraHold { .. } => CheckResult::NotTried,
            _ if diagnosis.class == ErrorClass::Throttled => CheckResult::Warning,
            _ => CheckResult::Failure,
        };
        let row = self.row(check, result, Some(diagnosis.owner.as_str()), diagnosis.advice);
        Finding { error: Some(error.into()), ..row }
    }
}

const OPERATOR: &str = "operator";

fn configuration(facts: &Facts) -> Vec<Finding> {
    let seen = &facts.configuration;
    let rows = FindingBuilder { group: Group::Configuration, about: &seen.file };
    let mut all = vec![match seen.tenants {
        0 => rows.warning("file", "it names no tenant; add [[tenants]] with id and name"),
        count => rows.ok("file", format!("it is valid and names {count} tenants")),
    }];
    all.push(if seen.open_to_writers.is_empty() {
        rows.ok(
            "permissions",
            "nobody else may write it, and files with secrets are closed to others",
        )
    } else {
        let say = "others than the owner may write, and so send secrets elsewhere";
        let paths = seen.open_to_writers.join(" ");
        rows.warning("permissions", format!("{say}; run chmod go-w {paths}"))
    });
    if !seen.closed_to_service.is_empty() {
        let say = "the service runs as a user of its own and cannot read what is root's alone; a secret there belongs into a file of its own, then run chmod go+rX";
        all.push(rows.warning("readable", format!("{say} {}", seen.closed_to_service.join(" "))));
    }
    all.extend(seen.warnings.iter().map(|warning| rows.warning("advice", warning.clone())));
    all
}

fn proxy(egress: &Egress) -> Option<Finding> {
    match egress {
        Egress::Direct => None,
        Egress::Environment => {
            Some(FindingBuilder { group: Group::Network, about: "environment" }.ok(
                "proxy",
                "HTTPS_PROXY and NO_PROXY of the environment decide, as http_client.proxy says",
            ))
        }
        Egress::Proxy { address, failure } => {
            let rows = FindingBuilder { group: Group::Network, about: address };
            Some(match failure {
                None => rows.ok("proxy", "somebody listens there"),
                Some(why) => Finding {
                    error: Some(why.clone().into()),
                    ..rows.failure(
                        "proxy",
                        "the proxy cannot be reached; check http_client.proxy, or tell whoever runs it",
                    )
                },
            })
        }
    }
}

fn host_rows(host: &Host, egress: &Egress, now: DateTime<Utc>) -> Vec<Finding> {
    let rows = FindingBuilder { group: Group::Network, about: &host.origin };
    let dns = match (&host.looked_up, &host.reached) {
        (None, _) => rows.ok("dns", "the proxy looks the name up"),
        (Some(Ok(count)), _) => rows.ok("dns", addresses(*count)),
        (Some(Err(_)), Some(Ok(_))) => {
            rows.ok("dns", "this machine does not know the name, the proxy does")
        }
        (Some(Err(why)), _) => no_name(&rows, why),
    };
    let mut all = vec![dns];
    let reached = match &host.reached {
        None => {
            let because = if matches!(egress, Egress::Proxy { .. }) {
                "the proxy failed"
            } else {
                "its name is not known"
            };
            all.extend(["connection", "tls", "clock"].map(|check| rows.not_tried(check, because)));
            return all;
        }
        Some(Err(error)) => {
            all.extend(unreachable_host(&rows, error));
            return all;
        }
        Some(Ok(reached)) => reached,
    };
    all.push(rows.ok("connection", "it answers"));
    all.push(tls(&rows, host, reached, now));
    all.push(clock(&rows, reached.ahead));
    all
}

fn addresses(count: usize) -> String {
    if count == 1 {
        "its name has an address".to_owned()
    } else {
        format!("its name has {count} addresses")
    }
}

fn no_name(rows: &FindingBuilder, why: &str) -> Finding {
    let say = "its name cannot be looked up; check the address in the configuration, and this machine's DNS (resolvectl query)";
    Finding { error: Some(why.to_owned().into()), ..rows.failure("dns", say) }
}

fn tls(rows: &FindingBuilder, host: &Host, reached: &HostFacts, now: DateTime<Utc>) -> Finding {
    let Some(certificate) = &reached.certificate else {
        return if host.is_tls {
            // The HTTP library does not hand out what it saw behind a proxy.
            rows.ok(
                "tls",
                "its certificate is trusted; behind a proxy its issuer and end cannot be shown",
            )
        } else {
            rows.ok("tls", "plain http, which is accepted on this machine alone")
        };
    };
    let until = certificate.ends.format("%Y-%m-%d");
    let told =
        format!("its certificate is trusted: signed by {}, until {until}", certificate.issuer);
    if certificate.ends.signed_duration_since(now) < CERTIFICATE_WARNS {
        return rows.warning(
            "tls",
            format!("{told}; tell whoever runs the host or the proxy to renew it"),
        );
    }
    rows.ok("tls", told)
}

fn clock(rows: &FindingBuilder, ahead: Option<i64>) -> Finding {
    let Some(ahead) = ahead else {
        return rows.not_tried("clock", "the host does not tell its time");
    };
    let (seconds, side) = (ahead.abs(), if ahead > 0 { "behind" } else { "ahead of" });
    let cure = "set it (timedatectl set-ntp true)";
    let row = if seconds > CLOCK_FAILS {
        let say =
            "this machine's clock is wrong; tokens and assertions are refused or kept too long";
        rows.failure("clock", format!("{say}: {cure}"))
    } else if seconds > CLOCK_WARNS {
        rows.warning("clock", format!("this machine's clock is wrong; {cure}"))
    } else {
        return rows.ok("clock", "this machine's clock is right within a minute");
    };
    let said =
        ErrorText { text: format!("it is {seconds} s {side} the host's"), cause: side.to_owned() };
    Finding { error: Some(said), ..row }
}

fn database(seen: &DatabaseFacts) -> Vec<Finding> {
    let rows = FindingBuilder { group: Group::Database, about: &seen.server };
    let later = [
        "version",
        "encoding",
        "roles",
        "owners",
        "create",
        "migrations",
        "isolation",
        "rights",
        "objects",
        "grants",
        "change_feed",
        "readers",
    ];
    let mut all = Vec::new();
    match &seen.looked_up {
        None => {}
        Some(Ok(count)) => all.push(rows.ok("dns", addresses(*count))),
        Some(Err(why)) => {
            all.push(no_name(&rows, why));
            let rest = ["connection", "server"].into_iter().chain(later);
            all.extend(rest.map(|check| rows.not_tried(check, "its name is not known")));
            return all;
        }
    }
    match &seen.connected {
        None => {}
        Some(Ok(())) => all.push(rows.ok("connection", "somebody listens there")),
        Some(Err(why)) => {
            let say = "nobody answers there; see whether Postgres runs, listens on that address and port (listen_addresses, port), and no firewall stands in between";
            all.push(Finding {
                error: Some(why.clone().into()),
                ..rows.failure("connection", say)
            });
            let rest = ["server"].into_iter().chain(later);
            all.extend(rest.map(|check| rows.not_tried(check, "there is no connection")));
            return all;
        }
    }
    let inspection = match &seen.inspection {
        Ok(inspection) => inspection,
        Err((say, error)) => {
            all.push(Finding { error: error.clone(), ..rows.failure("server", say.clone()) });
            all.extend(later.map(|check| rows.not_tried(check, "the server was not reached")));
            return all;
        }
    };
    all.extend(inspected(&rows, inspection));
    all
}

fn inspected(rows: &FindingBuilder, seen: &Inspection) -> Vec<Finding> {
    let server = if seen.is_standby {
        rows.failure(
            "server",
            "it is a standby, where nothing can be written; database.url must lead to the primary",
        )
    } else if let Some(source) = &seen.read_only_by {
        let (say, cure) = (
            "nothing can be written, because default_transaction_read_only is on",
            writable(seen, source),
        );
        rows.failure("server", format!("{say}; {cure}"))
    } else {
        rows.ok("server", format!("it answers the user {}", seen.user))
    };
    let major = seen.version / 10_000;
    let version = if u32::try_from(major).is_ok_and(|major| major >= OLDEST_MAJOR) {
        rows.ok("version", format!("PostgreSQL {}", seen.version_name))
    } else {
        let say =
            format!("PostgreSQL {} is too old; install {OLDEST_MAJOR} or newer", seen.version_name);
        rows.failure("version", say)
    };
    let encoding = if seen.encoding == "UTF8" {
        rows.ok("encoding", "UTF8")
    } else {
        let say = "cannot hold every character; make a database with ENCODING 'UTF8' TEMPLATE template0, and move there";
        rows.failure("encoding", format!("{} {say}", seen.encoding))
    };
    let mut all =
        vec![server, version, encoding, roles(rows, seen), owners(rows, seen), create(rows, seen)];
    if !seen.foreign_owners.is_empty() {
        let because = "tables of another user are not read";
        all.extend(
            ["migrations", "isolation", "rights", "objects", "grants", "change_feed", "readers"]
                .map(|check| rows.not_tried(check, because)),
        );
        return all;
    }
    all.push(migrations(rows, seen.schema.as_ref()));
    all.push(isolation(rows, seen));
    let current = seen
        .schema
        .as_ref()
        .and_then(|schema| schema.as_ref().ok())
        .filter(|schema| schema.pending == 0);
    all.push(rights(rows, current));
    all.push(objects(rows, current));
    all.push(grants(rows, current));
    all.push(sessions::change_feed(rows, current, &seen.user));
    all.push(sessions::readers(rows, current));
    all
}

/// How the setting is taken back, by where it was made.
fn writable(seen: &Inspection, source: &str) -> String {
    let Inspection { name, user, .. } = seen;
    let by = match source {
        "database" => format!("ALTER DATABASE {name}"),
        "user" => format!("ALTER ROLE {user}"),
        "database user" => format!("ALTER ROLE {user} IN DATABASE {name}"),
        "global" => "ALTER ROLE ALL".to_owned(),
        "client" => return "take it out of the options in database.url".to_owned(),
        _ => {
            return "take it out of postgresql.conf and run: ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()"
                .to_owned();
        }
    };
    format!(
        "run in a transaction that is BEGIN READ WRITE: {by} RESET default_transaction_read_only"
    )
}

/// Made by the first migration; a user that only owns the database has to be given them.
fn roles(rows: &FindingBuilder, seen: &Inspection) -> Finding {
    let absent: Vec<&str> =
        seen.roles.iter().filter(|role| !role.exists).map(|role| role.name.as_str()).collect();
    if !absent.is_empty() {
        return if seen.schema.is_none() {
            rows.not_tried("roles", "the first migration makes them")
        } else {
            let say = format!(
                "a superuser must make the roles again: CREATE ROLE {} NOLOGIN",
                absent.join(" NOLOGIN; CREATE ROLE ")
            );
            rows.failure("roles", say)
        };
    }
    let is_taken_on = |name: &str| name != "incident_sync_tenant_reader";
    let foreign = seen.roles.iter().filter(|role| is_taken_on(&role.name) && !role.is_ours);
    let foreign: Vec<&str> = foreign.map(|role| role.name.as_str()).collect();
    if foreign.is_empty() {
        return rows.ok("roles", format!("{} may take on the roles of incident-sync", seen.user));
    }
    let (names, user) = (foreign.join(", "), &seen.user);
    rows.failure(
        "roles",
        format!("{user} is no member of {names}; let a superuser run: GRANT {names} TO {user}"),
    )
}

/// Objects of other users that incident-sync would call run with its rights, or with those of its readers.
fn owners(rows: &FindingBuilder, seen: &Inspection) -> Finding {
    let check = "owners";
    if seen.foreign_owners.is_empty() {
        return rows.ok(check, "no other user owns an object that incident-sync uses");
    }
    let (list, user) = (seen.foreign_owners.join("; "), &seen.user);
    let cure =
        format!("let a superuser drop it, or check its content and run ALTER ... OWNER TO {user}");
    rows.failure(
        check,
        format!("another user owns an object that incident-sync uses: {list}; {cure}"),
    )
}

/// Whoever creates functions in a schema of somebody's search path can have them run with that user's rights. The
/// transactions of incident-sync have no such path, but its readers' do.
fn create(rows: &FindingBuilder, seen: &Inspection) -> Finding {
    let check = "create";
    if seen.create_rights.is_empty() {
        return rows.ok(check, "neither PUBLIC nor a reader may create objects in this database");
    }
    let say = "PUBLIC or a reader may create objects, which other users may run by mistake; let a superuser run: ";
    rows.failure(check, format!("{say}{}", seen.create_rights.join("; ")))
}

fn migrations(rows: &FindingBuilder, schema: Option<&Result<SchemaState, SyncError>>) -> Finding {
    let check = "migrations";
    let schema = match schema {
        None => {
            let say = "there are no tables of incident-sync; run incident-sync migrate, or start the service once";
            return rows.failure(check, say);
        }
        Some(Err(error)) => return rows.error(check, error),
        Some(Ok(schema)) => schema,
    };
    let SchemaState { applied, known, pending, oldest_supported, .. } = schema;
    if *pending > 0 {
        let say = "run incident-sync migrate, or restart the service, which does it";
        return rows.failure(
            check,
            format!("behind: the database lacks {pending} migrations up to {known}; {say}"),
        );
    }
    if known < oldest_supported {
        let say = format!(
            "ahead: a newer version has made migration {applied}, with which this one (up to {known}) cannot go on; install the newest version here"
        );
        return rows.failure(check, say);
    }
    if applied > known {
        let say = format!(
            "ahead: a newer version has made migration {applied}; this one (up to {known}) goes on, but install the newest version here"
        );
        return rows.warning(check, say);
    }
    rows.ok(check, format!("the schema is current (migration {applied})"))
}

fn isolation(rows: &FindingBuilder, seen: &Inspection) -> Finding {
    let check = "isolation";
    let unbound = seen.roles.iter().filter(|role| role.is_unbound);
    let unbound: Vec<&str> = unbound.map(|role| role.name.as_str()).collect();
    if !unbound.is_empty() {
        let cure = unbound.iter().map(|role| format!("ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS"));
        let cure = cure.collect::<Vec<_>>().join("; ");
        let say = "row-level security, which keeps customers apart, does not hold for ";
        return rows
            .failure(check, format!("{say}{}; let a superuser run: {cure}", unbound.join(", ")));
    }
    if seen.schema.is_none() {
        return rows.not_tried(check, "there are no tables");
    }
    let open: Vec<&str> = seen
        .isolation
        .iter()
        .filter(|(_, forced)| !forced)
        .map(|(table, _)| table.as_str())
        .collect();
    if open.is_empty() {
        return rows.ok(
            check,
            format!(
                "row-level security is forced on all {} tables of customers' data",
                seen.isolation.len()
            ),
        );
    }
    let cure = open.iter().map(|table| {
        format!("ALTER TABLE defender.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    });
    let cure = cure.collect::<Vec<_>>().join("; ");
    let say = "row-level security is not forced, so that a customer's reader may see other customers, on: ";
    rows.failure(check, format!("{say}{}; let the owner run: {cure}", open.join(", ")))
}

fn rights(rows: &FindingBuilder, schema: Option<&SchemaState>) -> Finding {
    let check = "rights";
    let Some(schema) = schema else { return rows.not_tried(check, "the schema is not current") };
    if schema.missing_rights.is_empty() && schema.function_rights.is_empty() {
        return rows.ok(check, "the roles of incident-sync may read and write what they need to");
    }
    if schema.missing_rights.is_empty() {
        let say = "the privileges on functions are not those of the migrations; run incident-sync migrate, or let the functions' owner run: ";
        return rows.failure(check, format!("{say}{}", schema.function_rights.join("; ")));
    }
    let say = "the roles of incident-sync may not read or write what they need to; let the tables' owner run: ";
    rows.failure(check, format!("{say}{}", schema.missing_rights.join("; ")))
}

fn objects(rows: &FindingBuilder, schema: Option<&SchemaState>) -> Finding {
    let check = "objects";
    let Some(schema) = schema else { return rows.not_tried(check, "the schema is not current") };
    // Those of customers' tables have a row of their own.
    let missing: Vec<&str> =
        schema.missing.iter().copied().filter(|line| !line.starts_with("row-level")).collect();
    if !missing.is_empty() {
        let say = "somebody has taken away from the schema defender, restore it: ";
        return rows.failure(check, format!("{say}{}", missing.join(", ")));
    }
    if !schema.missing_views.is_empty() {
        let say = "missing, so that reports fail; restore from a dump (pg_dump --schema-only) of a healthy database: ";
        return rows.failure(check, format!("{say}{}", schema.missing_views.join(", ")));
    }
    if !schema.missing_indexes.is_empty() {
        let say = "missing in the schema defender, so that queries will be slow: ";
        return rows.warning(check, format!("{say}{}", schema.missing_indexes.join(", ")));
    }
    rows.ok(check, "columns, keys, indexes, policies and views are there")
}

/// A grant counts for the role that it was made for. Where that role is gone, nothing leaks, but its successor sees nothing.
fn grants(rows: &FindingBuilder, schema: Option<&SchemaState>) -> Finding {
    let check = "grants";
    let Some(schema) = schema else { return rows.not_tried(check, "the schema is not current") };
    match &schema.dead_grants {
        None => rows.not_tried(
            check,
            "only the user that migrates may read which reader sees which tenant",
        ),
        Some(readers) if readers.is_empty() => {
            rows.ok(check, "each grant is that of an existing role")
        }
        Some(readers) => {
            let say = "these readers see no tenant, because the role was dropped, renamed, made again or restored on another server";
            let cure = "run incident-sync grant-reader for each, or DELETE FROM defender.reader_tenants WHERE reader = its name";
            rows.warning(check, format!("{say}: {}; {cure}", readers.join(", ")))
        }
    }
}

fn tenant(seen: &TenantProbe, all: &[TenantProbe]) -> Vec<Finding> {
    let rows = FindingBuilder { group: Group::Tenants, about: &seen.name };
    let told = match &seen.token {
        Some(Ok(told)) => told,
        Some(Err(error @ SyncError::WrongTenant { .. })) => {
            let mut found = vec![rows.ok("token", "Entra gives one"), rows.error("tid", error)];
            found.extend(
                ["roles", "audience", "call"]
                    .map(|check| rows.not_tried(check, "the token is another tenant's")),
            );
            return found;
        }
        Some(Err(error)) => {
            let mut found = vec![refused_token(&rows, error, all)];
            found.extend(
                ["tid", "roles", "audience", "call"]
                    .map(|check| rows.not_tried(check, "there is no token")),
            );
            return found;
        }
        None => {
            let because = "Entra was not reached";
            return ["token", "tid", "roles", "audience", "call"]
                .map(|check| rows.not_tried(check, because))
                .into();
        }
    };
    let call = match &seen.call {
        Some(Ok(())) => rows.ok("call", "the API answers"),
        Some(Err(error)) if error.diagnosis().class.is_database() => uncounted(&rows, error),
        Some(Err(error)) => rows.error("call", error),
        None => rows.not_tried("call", "the API was not reached"),
    };
    let answers = matches!(seen.call, Some(Ok(())));
    let [tid, roles] = claims(&rows, told.check, answers);
    vec![
        rows.ok("token", "Entra gives one"),
        tid,
        roles,
        audience(&rows, told, &seen.scope, seen.call.as_ref()),
        call,
    ]
}

/// The API is not called by who cannot count the call.
fn uncounted(rows: &FindingBuilder, error: &SyncError) -> Finding {
    let say = "the database, which counts the calls, failed; the rows of the database say more";
    Finding { error: Some(error.into()), ..rows.not_tried("call", say) }
}

/// A broken credential is one cause for every tenant, also for those for which the breaker did not ask any more.
fn refused_token(rows: &FindingBuilder, error: &SyncError, all: &[TenantProbe]) -> Finding {
    let row = rows.error("token", error);
    let SyncError::CredentialBreaker { code } = error else { return row };
    let failures = all.iter().filter_map(|seen| seen.token.as_ref()?.as_ref().err());
    let cause =
        failures.into_iter().find(|failure| failure.shared_credential_code() == Some(*code));
    let advice =
        cause.map_or_else(|| row.advice.clone(), |cause| cause.diagnosis().advice.into_owned());
    Finding { advice, ..row }
}

fn claims(rows: &FindingBuilder, check: TokenCheck, answers: bool) -> [Finding; 2] {
    let opaque = "the token cannot be read, as Microsoft reserves";
    match check {
        TokenCheck::Valid => [
            rows.ok("tid", "the token is this tenant's"),
            rows.ok("roles", "the token may read incidents"),
        ],
        TokenCheck::Unreadable => [
            rows.warning(
                "tid",
                format!("{opaque}, so its tenant is not proven; it is used all the same"),
            ),
            rows.not_tried("roles", opaque),
        ],
        TokenCheck::RoleMissing => {
            let tid = rows.ok("tid", "the token is this tenant's");
            let say = "the token shows no role Incident.Read.All";
            if answers {
                return [tid, rows.warning("roles", format!("{say}, but the API answers"))];
            }
            let cure = "add the permission to the app registration, then the customer's admin must consent again";
            let who = Some(Owner::CustomerAdmin.as_str());
            [tid, rows.row("roles", CheckResult::Failure, who, format!("{say}; {cure}"))]
        }
    }
}

/// Ids and names under which the API is known: those of Microsoft Threat Protection, its old name.
const AUDIENCES: [&str; 2] =
    ["8ee8fdad-f234-4243-8f3b-15c294843740", "https://security.microsoft.com/mtp"];

fn audience(
    rows: &FindingBuilder,
    told: &TokenFacts,
    scope: &str,
    call: Option<&Result<(), SyncError>>,
) -> Finding {
    let check = "audience";
    let Some(audience) = &told.audience else {
        return rows.not_tried(check, "the token cannot be read");
    };
    let bare = audience.trim_end_matches('/');
    let asked = scope.trim_end_matches(".default").trim_end_matches('/');
    // A scope of another service is granted as it was asked for, and yet of no use here.
    let is_foreign = ["graph.microsoft.com", "securitycenter", "management.azure.com"]
        .iter()
        .any(|other| bare.contains(other));
    if AUDIENCES.contains(&bare) || (bare == asked && !is_foreign) {
        return rows.ok(check, "the token is for the API");
    }
    let say = format!(
        "the token is for {audience}, not for the Defender API; check scope, cloud and token_version"
    );
    match call {
        Some(Ok(())) => rows.warning(check, format!("{say}; the API takes it all the same")),
        _ => rows.failure(check, say),
    }
}

#[cfg(test)]
mod tests;
