//! Findings on the database.

use super::network::{addresses, no_name};
use super::{FindingBuilder, sessions};
use crate::doctor::{DatabaseFacts, Finding, Group};
use crate::error::SyncError;
use crate::postgres::programs::OLDEST_MAJOR;
use crate::store::inspect::{Inspection, SchemaState};
use crate::store::isolation::TableIsolation;

pub(super) fn findings(facts: &DatabaseFacts) -> Vec<Finding> {
    let rows = FindingBuilder { group: Group::Database, about: &facts.server };
    let later = [
        "version",
        "encoding",
        "roles",
        "owners",
        "create",
        "migrations",
        "isolation",
        "rights",
        "grants",
        "change_feed",
        "readers",
    ];
    let mut all = Vec::new();
    match &facts.looked_up {
        None => {}
        Some(Ok(count)) => all.push(rows.ok("dns", addresses(*count))),
        Some(Err(why)) => {
            all.push(no_name(&rows, why));
            let rest = ["connection", "server"].into_iter().chain(later);
            all.extend(rest.map(|check| rows.not_tried(check, "the name does not resolve")));
            return all;
        }
    }
    match &facts.connected {
        None => {}
        Some(Ok(())) => all.push(rows.ok("connection", "connection accepted")),
        Some(Err(why)) => {
            let problem = "Nothing accepts connections there. Check that Postgres runs, that it listens on this address and port (listen_addresses, port), and that no firewall blocks it";
            all.push(Finding {
                error: Some(why.clone().into()),
                ..rows.failure("connection", problem)
            });
            let rest = ["server"].into_iter().chain(later);
            all.extend(rest.map(|check| rows.not_tried(check, "there is no connection")));
            return all;
        }
    }
    let inspection = match &facts.inspection {
        Ok(inspection) => inspection,
        Err((problem, error)) => {
            all.push(Finding { error: error.clone(), ..rows.failure("server", problem.clone()) });
            all.extend(later.map(|check| rows.not_tried(check, "the server was not reached")));
            return all;
        }
    };
    all.extend(inspected(&rows, inspection));
    all
}

fn inspected(rows: &FindingBuilder, inspection: &Inspection) -> Vec<Finding> {
    let server = if inspection.is_standby {
        rows.failure("server", "The server is a read-only standby. Set database.url to the primary")
    } else if let Some(source) = &inspection.read_only_by {
        let problem = "The database is read-only, because default_transaction_read_only is on";
        let fix = writable(inspection, source);
        rows.failure("server", format!("{problem}. {fix}"))
    } else {
        rows.ok("server", format!("connected as user {}", inspection.user))
    };
    let major = inspection.version / 10_000;
    let version = if u32::try_from(major).is_ok_and(|major| major >= OLDEST_MAJOR) {
        rows.ok("version", format!("PostgreSQL {}", inspection.version_name))
    } else {
        let problem = format!(
            "PostgreSQL {} is too old. Install {OLDEST_MAJOR} or newer",
            inspection.version_name
        );
        rows.failure("version", problem)
    };
    let encoding = if inspection.encoding == "UTF8" {
        rows.ok("encoding", "UTF8")
    } else {
        let problem = "cannot store every character. Create a database with ENCODING 'UTF8' TEMPLATE template0 and move the data to it";
        rows.failure("encoding", format!("{} {problem}", inspection.encoding))
    };
    let mut all = vec![
        server,
        version,
        encoding,
        roles(rows, inspection),
        owners(rows, inspection),
        create(rows, inspection),
    ];
    if !inspection.foreign_owners.is_empty() {
        let because = "tables owned by another user are not inspected";
        all.extend(
            ["migrations", "isolation", "rights", "grants", "change_feed", "readers"]
                .map(|check| rows.not_tried(check, because)),
        );
        return all;
    }
    all.push(migrations(rows, inspection.schema.as_ref()));
    all.push(isolation(rows, inspection));
    let current = inspection
        .schema
        .as_ref()
        .and_then(|schema| schema.as_ref().ok())
        .filter(|schema| schema.pending == 0);
    all.push(rights(rows, current));
    all.push(grants(rows, current));
    all.push(sessions::change_feed(rows, current, &inspection.user));
    all.push(sessions::readers(rows, current));
    all
}

/// The statement that resets the setting where it was set.
fn writable(inspection: &Inspection, source: &str) -> String {
    let Inspection { name, user, .. } = inspection;
    let by = match source {
        "database" => format!("ALTER DATABASE {name}"),
        "user" => format!("ALTER ROLE {user}"),
        "database user" => format!("ALTER ROLE {user} IN DATABASE {name}"),
        "global" => "ALTER ROLE ALL".to_owned(),
        "client" => return "Remove it from the options in database.url".to_owned(),
        _ => {
            return "Remove it from postgresql.conf and run: ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()"
                .to_owned();
        }
    };
    format!(
        "Run in a transaction started with BEGIN READ WRITE: {by} RESET default_transaction_read_only"
    )
}

/// The first migration creates the roles; a user that only owns the database must be granted them.
fn roles(rows: &FindingBuilder, inspection: &Inspection) -> Finding {
    let absent: Vec<&str> = inspection
        .roles
        .iter()
        .filter(|role| !role.exists)
        .map(|role| role.name.as_str())
        .collect();
    if !absent.is_empty() {
        return if inspection.schema.is_none() {
            rows.not_tried("roles", "the first migration creates them")
        } else {
            let problem = format!(
                "Roles are missing. As a superuser, run: CREATE ROLE {} NOLOGIN",
                absent.join(" NOLOGIN; CREATE ROLE ")
            );
            rows.failure("roles", problem)
        };
    }
    let is_assumed = |name: &str| name != "incident_sync_tenant_reader";
    let foreign = inspection.roles.iter().filter(|role| is_assumed(&role.name) && !role.is_ours);
    let foreign: Vec<&str> = foreign.map(|role| role.name.as_str()).collect();
    if foreign.is_empty() {
        return rows
            .ok("roles", format!("{} is a member of the roles of incident-sync", inspection.user));
    }
    let names = foreign.join(", ");
    let user = &inspection.user;
    rows.failure(
        "roles",
        format!("{user} is not a member of {names}. As a superuser, run: GRANT {names} TO {user}"),
    )
}

/// An object that another user owns would run with the privileges of incident-sync or of its readers.
fn owners(rows: &FindingBuilder, inspection: &Inspection) -> Finding {
    let check = "owners";
    if inspection.foreign_owners.is_empty() {
        return rows.ok(check, "no other user owns an object that incident-sync uses");
    }
    let list = inspection.foreign_owners.join("; ");
    let user = &inspection.user;
    let fix = format!("As a superuser, drop it, or review it and run ALTER ... OWNER TO {user}");
    rows.failure(
        check,
        format!("Another user owns an object that incident-sync uses: {list}. {fix}"),
    )
}

/// A user who can create functions in a schema of another user's search path can have them run with that user's
/// privileges. The transactions of incident-sync set an empty path; those of its readers do not.
fn create(rows: &FindingBuilder, inspection: &Inspection) -> Finding {
    let check = "create";
    if inspection.create_rights.is_empty() {
        return rows.ok(check, "neither PUBLIC nor a reader may create objects in this database");
    }
    let problem = "PUBLIC or a reader may create objects that other users may call by mistake. As a superuser, run: ";
    rows.failure(check, format!("{problem}{}", inspection.create_rights.join("; ")))
}

fn migrations(rows: &FindingBuilder, schema: Option<&Result<SchemaState, SyncError>>) -> Finding {
    let check = "migrations";
    let schema = match schema {
        None => {
            let problem = "The database has no tables of incident-sync. Run incident-sync migrate, or start the service once";
            return rows.failure(check, problem);
        }
        Some(Err(error)) => return rows.error(check, error),
        Some(Ok(schema)) => schema,
    };
    let SchemaState { applied, known, pending, oldest_supported, .. } = schema;
    if *pending > 0 {
        let problem = "Run incident-sync migrate, or restart the service, which runs it";
        return rows.failure(
            check,
            format!(
                "The schema is behind: {pending} migrations up to {known} are missing. {problem}"
            ),
        );
    }
    if known < oldest_supported {
        let problem = format!(
            "The schema is ahead: migration {applied} of a newer version is not supported by this one (up to {known}). Install the newest version"
        );
        return rows.failure(check, problem);
    }
    if applied > known {
        let problem = format!(
            "The schema is ahead: migration {applied} is of a newer version. This one (up to {known}) still works, but install the newest version"
        );
        return rows.warning(check, problem);
    }
    rows.ok(check, format!("up to date (migration {applied})"))
}

fn isolation(rows: &FindingBuilder, inspection: &Inspection) -> Finding {
    let check = "isolation";
    let unbound = inspection.roles.iter().filter(|role| role.is_unbound);
    let unbound: Vec<&str> = unbound.map(|role| role.name.as_str()).collect();
    if !unbound.is_empty() {
        let fix = unbound.iter().map(|role| format!("ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS"));
        let fix = fix.collect::<Vec<_>>().join("; ");
        let problem = "Row-level security, which separates customers, does not apply to ";
        return rows.failure(
            check,
            format!("{problem}{}. As a superuser, run: {fix}", unbound.join(", ")),
        );
    }
    if inspection.schema.is_none() {
        return rows.not_tried(check, "there are no tables");
    }
    let open: Vec<&str> = inspection
        .isolation
        .iter()
        .filter(|table| !table.is_forced)
        .map(|table| table.table.as_str())
        .collect();
    let policies = inspection.isolation.iter().flat_map(
        |TableIsolation { table, missing_policies, .. }| {
            missing_policies.iter().map(move |policy| format!("{policy} of defender.{table}"))
        },
    );
    let policies: Vec<String> = policies.collect();
    if open.is_empty() && !policies.is_empty() {
        let say = "Policies of row-level security are missing. Restore them from a dump (pg_dump --schema-only) of a healthy database: ";
        return rows.failure(check, format!("{say}{}", policies.join(", ")));
    }
    if open.is_empty() {
        return rows.ok(
            check,
            format!(
                "row-level security is forced on all {} tables of customers' data",
                inspection.isolation.len()
            ),
        );
    }
    let fix = open.iter().map(|table| {
        format!("ALTER TABLE defender.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    });
    let fix = fix.collect::<Vec<_>>().join("; ");
    let problem =
        "Row-level security is not forced, so a reader of one customer may see others, on: ";
    rows.failure(check, format!("{problem}{}. As the owner, run: {fix}", open.join(", ")))
}

fn rights(rows: &FindingBuilder, schema: Option<&SchemaState>) -> Finding {
    let check = "rights";
    let Some(schema) = schema else { return rows.not_tried(check, "the schema is not up to date") };
    if schema.missing_rights.is_empty() && schema.function_rights.is_empty() {
        return rows.ok(check, "the roles of incident-sync have the privileges they need");
    }
    if schema.missing_rights.is_empty() {
        let problem = "The privileges on functions differ from those of the migrations. Run incident-sync migrate, or as the owner of the functions, run: ";
        return rows.failure(check, format!("{problem}{}", schema.function_rights.join("; ")));
    }
    let problem = "The roles of incident-sync lack privileges. As the owner of the tables, run: ";
    rows.failure(check, format!("{problem}{}", schema.missing_rights.join("; ")))
}

/// A grant applies to the role by its OID: a role created again under the same name sees nothing.
fn grants(rows: &FindingBuilder, schema: Option<&SchemaState>) -> Finding {
    let check = "grants";
    let Some(schema) = schema else { return rows.not_tried(check, "the schema is not up to date") };
    match &schema.dead_grants {
        None => rows.not_tried(check, "only the user that migrates may read the grants"),
        Some(readers) if readers.is_empty() => {
            rows.ok(check, "every grant refers to an existing role")
        }
        Some(readers) => {
            let problem = "These readers see no tenant, because the role was dropped, renamed, recreated or restored on another server";
            let fix = "Run incident-sync grant-reader for each, or DELETE FROM defender.reader_tenants WHERE reader = its name";
            rows.warning(check, format!("{problem}: {}. {fix}", readers.join(", ")))
        }
    }
}
