//! The command `tenant erase-person`: replaces everything that identifies one person in all rows of a tenant.

use std::io::BufRead;

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::commands::tenant::subject::{actor, find_tenant, row_table};
use crate::config::Config;
use crate::context::OpenDatabase;
use crate::incident::person::Person;
use crate::incident::text::repeated;
use crate::store::Store;
use crate::store::readers::KnownTenant;
use crate::store::tenant_data::purge::RowCounts;
use crate::store::tenant_data::rows::{BATCH_BYTES, TenantRows};
use crate::tenant::TenantId;

#[derive(Debug, Args)]
pub struct EraseArgs {
    /// The tenant, by name or id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// The sign-in name of the person, such as ann@example.com. `-` reads it from standard input, which keeps it out of the
    /// process list.
    #[arg(long, value_name = "NAME")]
    upn: String,
    /// Count the rows without changing them.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Replaces the person by a placeholder, in one transaction.
pub async fn run(config: &Config, args: EraseArgs) -> Result<(), Failure> {
    let upn = sign_in_name(&args.upn)?;
    let database = OpenDatabase::existing(&config.database).await?;
    let erased = erase_with(&database.store, &args, &upn).await;
    if erased.is_err() {
        // Otherwise the tenant would wait until the lease expires.
        let _ = database.store.release_leases().await;
    }
    database.close().await;
    let (tenant, counts) = erased?;
    let value = json!({ "tenant_id": tenant.tenant_id, "name": tenant.name, "dry_run": args.dry_run, "changed": counts });
    print(args.json, &value, || match (counts.is_empty(), args.dry_run) {
        (true, _) => format!("No row of {} identifies this person.", tenant.name),
        (false, true) => {
            format!(
                "Rows of {} that identify the person (nothing was changed):\n{}",
                tenant.name,
                row_table(&counts)
            )
        }
        (false, false) => format!(
            "Erased the person from these rows of {}:\n{}\nMicrosoft keeps its own copy: an incident that changes there and names the person \
             is stored again with the name.",
            tenant.name,
            row_table(&counts)
        ),
    })
}

fn sign_in_name(argument: &str) -> Result<String, Failure> {
    let mut name = argument.to_owned();
    if name == "-" {
        name.clear();
        let read = std::io::stdin().lock().read_line(&mut name);
        read.map_err(|error| {
            Failure::Configuration(format!("cannot read the name from standard input: {error}"))
        })?;
    }
    let name = name.trim();
    match name.split_once('@') {
        Some((user, domain)) if !user.is_empty() && domain.contains('.') => Ok(name.to_owned()),
        _ => Err(Failure::Configuration(
            "--upn: not a sign-in name. Expected the form ann@example.com".to_owned(),
        )),
    }
}

async fn erase_with(
    store: &Store,
    args: &EraseArgs,
    upn: &str,
) -> Result<(KnownTenant, RowCounts), Failure> {
    let tenant = find_tenant(store, &args.tenant).await?;
    let id = TenantId(tenant.tenant_id);
    let seized = if args.dry_run { None } else { Some(store.take_lease(id).await?) };
    // One for each person, so that counts of distinct persons stay the same.
    let placeholder = format!("erased-{}", &Uuid::new_v4().simple().to_string()[..12]);
    let person = Person::new(upn, &store.person_ids(id, upn).await?, placeholder);
    let mut rows = store.locked_rows(id).await?;
    let mut counts = RowCounts::new();
    for at in 0..rows.tables.len() {
        let changed = erase_table(&mut rows, at, &person).await?;
        if changed > 0 {
            let name = rows.tables[at].name.clone();
            tracing::info!(tenant.id = %id, table = name, count = changed, "Erased a person");
            counts.insert(name, changed);
        }
    }
    if seized.is_some() {
        rows.summarise().await?;
        rows.finish("person erased", &actor(), &counts, seized).await?;
    }
    Ok((tenant, counts))
}

async fn erase_table(rows: &mut TenantRows, at: usize, person: &Person) -> Result<u64, Failure> {
    let mut changed = 0;
    let mut batch = String::new();
    rows.open(at).await?;
    loop {
        let read = rows.next().await?;
        let is_last = read.is_empty();
        for row in read {
            let changed = without(person, &row).map_err(|what| {
                let table = &rows.tables[at].name;
                let row = rows.name_row(&row);
                Failure::NotDone(format!(
                    "defender.{table}, {row}: {what}. Nothing was erased. Delete this row or store its incident again"
                ))
            })?;
            if let Some(row) = changed {
                batch.push(if batch.is_empty() { '[' } else { ',' });
                batch.push_str(&row);
            }
        }
        if !batch.is_empty() && (is_last || batch.len() > BATCH_BYTES) {
            batch.push(']');
            changed += rows.update(at, &batch).await?;
            batch.clear();
        }
        if is_last {
            return Ok(changed);
        }
    }
}

/// The row without the person, if it changed. The payload of a quarantined row is JSON in a text. A changed row loses members
/// that another one of the same key hides: they may name the person too.
fn without(person: &Person, row: &str) -> Result<Option<String>, String> {
    let (mut row, mut hidden) =
        repeated::parse(row).map_err(|error| format!("cannot parse the row: {error}"))?;
    let inner = row.get("payload").and_then(Value::as_str);
    let mut changed = false;
    if let Some((mut inner, mut hidden)) = inner.and_then(|text| repeated::parse(text).ok())
        && (person.erase(&mut inner) | names_any(person, &mut hidden))
    {
        row["payload"] = inner.to_string().into();
        changed = true;
    }
    changed |= person.erase(&mut row) | names_any(person, &mut hidden);
    Ok(changed.then(|| row.to_string()))
}

fn names_any(person: &Person, values: &mut [Value]) -> bool {
    values.iter_mut().any(|value| person.erase(value))
}
