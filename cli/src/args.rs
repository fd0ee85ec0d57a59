//! The command line.

#![expect(clippy::doc_markdown, reason = "texts of arguments become help, which is shown as plain text")]

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::answer::Output;
use crate::{check, completion, explain, export, import, inject, query, report, rotate, status, upgrade};

/// Checks, explains and operates Context Manager.
///
/// Everything is done with your own rights. Exit codes: 0 all is well, 1 it could not be done, 2 the command line is wrong, 3 it was done and
/// what was found is not well.
#[derive(Debug, Parser)]
#[command(name = "kubectl context", bin_name = "kubectl context", version)]
pub struct Args {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, as whom, and where in it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Connection {
    /// Path of the kubeconfig
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace; that of the context when absent
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// User to act as, if you may impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Namespace that the operator is installed in
    #[arg(long, global = true, value_name = "NAME", default_value = "context-manager-system")]
    pub(crate) operator_namespace: String,
    /// Release of the operator, where its namespace has several that would do
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) release: Option<String>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check whether Context Manager can be installed here, or works as it should
    Check(check::Args),
    /// Show all ContextManagers, or one in detail
    Status(status::Args),
    /// Say what the webhook decides about a pod or a workload, and why
    Explain(explain::Args),
    /// Write pods and workloads of a file with their sidecars
    Inject(inject::Args),
    /// Replace the key of a ContextManager, or the webhook's CA, without a restart
    Rotate(rotate::Args),
    /// Show which running pods have an old sidecar, ask for their upgrade, and follow it
    UpgradeSidecars(upgrade::Args),
    /// Search the memory of a running agent
    Query(query::Args),
    /// Write the memory of a namespace to a file
    Export(export::Args),
    /// Bring an exported memory to another namespace or cluster
    Import(import::Args),
    /// Write a support bundle, without secrets and without memory
    Report(report::Args),
    /// Write a script that completes this command line
    Completion(completion::Args),
    /// Answer kubectl's question how a command line may go on
    #[command(name = "__complete", hide = true)]
    Complete(completion::Words),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_subcommand_and_option_is_documented() {
        fn look_at(command: &clap::Command, page: &str) {
            for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("`--{option}")) || page.contains(&format!(" --{option}")), "--{option}");
            }
            for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
                assert!(page.contains(subcommand.get_name()), "{}", subcommand.get_name());
                look_at(subcommand, page);
            }
        }
        look_at(&Args::command(), include_str!("../../docs/cli.md"));
    }
}
