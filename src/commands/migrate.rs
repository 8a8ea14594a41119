//! The command `migrate`.

use clap::Args;
use serde_json::json;

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::config::Config;
use crate::context::OpenDatabase;
use crate::postgres::Hold;

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(config: &Config, args: MigrateArgs) -> Result<(), Failure> {
    let database = OpenDatabase::open(&config.database, Hold::Command, true).await?;
    database.close().await;
    print(args.json, &json!({ "ok": true }), || "The schema is up to date.".to_owned())
}
