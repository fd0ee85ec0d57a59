//! `kubectl context`: checks, explains and operates Context Manager from the command line.
//!
//! One module for each subcommand. What the webhook would decide is decided here by the webhook's own code
//! ([`context_manager_operator::inject`]), so the two cannot disagree. Everything is done with the caller's own rights: what may not be
//! read is said, and whatever can do without it goes on.

mod answer;
mod args;
mod check;
mod cluster;
mod completion;
mod error;
mod explain;
mod export;
mod facts;
mod import;
mod inject;
mod manifest;
mod operator;
mod query;
mod report;
mod rotate;
mod sidecar;
mod status;
mod table;
mod trust;
mod upgrade;
mod workload;

pub use answer::{Answer, Exit};
pub use args::Args;
pub use error::Error;

use args::Command;
use cluster::Cluster;

/// Does what the command line says.
///
/// # Errors
/// When it cannot be done; the error names the remedy.
pub async fn run(args: Args) -> Result<Answer, Error> {
    let Args { connection, output, command } = args;
    match command {
        Command::Check(args) => check::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::Status(args) => status::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::Explain(args) => explain::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::Rotate(args) => rotate::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::UpgradeSidecars(args) => upgrade::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::Query(args) => query::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::Export(args) => export::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::Import(args) => import::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::Report(args) => report::run(&Cluster::connect(&connection).await?, &args, output).await,
        Command::Completion(args) => Ok(completion::run(args)),
        Command::Complete(args) => Ok(completion::complete(&args)),
        Command::Inject(args) => inject::run(&connection, &args, output).await,
    }
}
