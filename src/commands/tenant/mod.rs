//! The commands of `tenant`.

use clap::Subcommand;

use crate::commands::exit::Failure;
use crate::config::Config;

pub mod confirm_removal;
pub mod erase_person;
pub mod export;
pub mod import;
pub mod list;
pub mod move_source;
pub mod park;
pub mod purge;
mod source_file;
mod subject;
mod transfer;

#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// List the configured tenants.
    List(list::ListArgs),
    /// Pause a tenant until it is resumed. Its data stays.
    Park(park::ParkArgs),
    /// Resume a parked tenant.
    Resume(park::ResumeArgs),
    /// Move tenants to another source: try it, then write it into the tenant's file in `tenants_dir`.
    Move(move_source::MoveArgs),
    /// Confirm that the tenants that vanished from the configuration are to be removed. Their data stays.
    ConfirmRemoval(confirm_removal::ConfirmArgs),
    /// Delete all data of a tenant that is disabled or removed from the configuration.
    Purge(purge::PurgeArgs),
    /// Erase one person from the data of a tenant.
    ErasePerson(erase_person::EraseArgs),
    /// Export all data of a tenant into a folder, as JSON Lines with checksums.
    Export(export::ExportArgs),
    /// Import an export. The database must have no rows of the tenant.
    Import(import::ImportArgs),
}

pub async fn run(config: &Config, command: TenantCommand) -> Result<(), Failure> {
    match command {
        TenantCommand::List(args) => list::run(config, &args),
        TenantCommand::Park(args) => park::park(config, args).await,
        TenantCommand::Resume(args) => park::resume(config, args).await,
        TenantCommand::Move(args) => move_source::run(config, args).await,
        TenantCommand::ConfirmRemoval(args) => confirm_removal::run(config, args).await,
        TenantCommand::Purge(args) => purge::run(config, args).await,
        TenantCommand::ErasePerson(args) => erase_person::run(config, args).await,
        TenantCommand::Export(args) => export::run(config, args).await,
        TenantCommand::Import(args) => import::run(config, args).await,
    }
}
