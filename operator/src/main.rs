//! The operator's program: `controller` provisions what resources ask for, `webhook` injects sidecars at admission.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use context_manager_operator::{controller, webhook};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// glibc's allocator keeps most of what a list of objects took; see `docs/adr/0039`. How this one is set stands in `.cargo/config.toml`.
/// On 64-bit ARM it would have to know the size of the kernel's pages in advance.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Debug, Parser)]
#[command(version, about = "The operator of Context Manager")]
struct Args {
    /// A `tracing` filter such as `info` or `context_manager_operator=debug`
    #[arg(long, env = "RUST_LOG", default_value = "info", global = true)]
    log_level: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Provision what sidecars need, from keys to stores, and look after the pods that have one; one replica leads
    Controller(Box<controller::Args>),
    /// Inject sidecars in pods that ask for one; any number of replicas
    Webhook(Box<webhook::Args>),
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

// Two are enough for thousands of admissions a second, and each more, on a large node, would keep memory of its own.
#[tokio::main(worker_threads = 2)]
async fn run(args: Args) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log_level).context("--log-level is not a tracing filter")?;
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    // Two providers may be in the dependency graph, so rustls wants to be told.
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider was installed first"))?;
    let shutdown = CancellationToken::new();
    tokio::spawn(terminate(shutdown.clone()));
    let config = kube::Config::infer().await.context("no cluster is configured: run in a pod, or set KUBECONFIG")?;
    match args.command {
        Command::Controller(args) => {
            let clients = controller::Clients::new(config).context("the cluster's configuration cannot be used")?;
            controller::run(clients, (*args).into(), shutdown).await.context("the controller failed")
        }
        Command::Webhook(args) => {
            let settings = webhook::Settings::try_from(*args).context("the flags contradict each other")?;
            let client = kube::Client::try_from(config).context("the cluster's configuration cannot be used")?;
            webhook::run(client, settings, shutdown).await.context("the webhook failed")
        }
    }
}

/// Ends the process in order at SIGTERM (the kubelet) and SIGINT (a person).
async fn terminate(shutdown: CancellationToken) {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut interrupt)) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "Failed to listen for signals; stopping"),
    }
    shutdown.cancel();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_is_documented_with_its_variable_and_default() {
        let page = include_str!("../../docs/operator.md");
        let command = Args::command();
        let of_command = |command: &clap::Command, chapter: &str| {
            let rows = page.split("\n## ").find_map(|text| text.strip_prefix(chapter)?.strip_prefix('\n'));
            let rows = rows.expect("docs/operator.md has a chapter for each command");
            for argument in command.get_arguments() {
                // What clap adds itself has no variable.
                let (Some(flag), Some(variable)) = (argument.get_long(), argument.get_env()) else { continue };
                let start = format!("| `--{flag}` | `{}` |", variable.display());
                let row = rows.lines().find(|row| row.starts_with(&start));
                assert!(row.is_some(), "docs/operator.md has no row {start:?} for {chapter}");
                for value in argument.get_default_values() {
                    let value = format!("`{}`", value.display());
                    let is_said = row.is_some_and(|row| row.contains(&value));
                    assert!(is_said, "docs/operator.md does not say {value} for --{flag} of {chapter}");
                }
            }
        };
        of_command(&command, "Both");
        for command in command.get_subcommands() {
            of_command(command, command.get_name());
        }
    }
}
