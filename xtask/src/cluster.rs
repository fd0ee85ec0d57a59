//! A real Kubernetes for development and tests: etcd, the whole control plane, and real nodes with containerd and kubelet,
//! on this machine, without Docker and without a registry. `docs/cluster.md` is its guide.
//!
//! What runs is always read from the machine itself, never from notes about it.

mod cgroup;
mod control_plane;
mod credentials;
mod down;
mod leftovers;
mod load;
mod network;
mod node;
mod packages;
mod part;
mod process;
mod programs;
mod services;
mod state;
mod status;
mod target;
mod up;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Subcommand;

#[cfg(test)]
pub use programs::KUBERNETES;
pub use target::{ClusterArgs, ClusterHandle, Dev, Target, ensure};

use crate::paths::Home;

/// The command line of `cargo xtask cluster`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start the cluster, or repair the one that is up
    Up {
        /// How many real nodes (1, or as many as the cluster has)
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(state::MOST_NODES)))]
        nodes: Option<u8>,
        /// Only etcd and the API server, without nodes and controllers; needs no root
        #[arg(long, conflicts_with = "nodes")]
        api_only: bool,
    },
    /// End the cluster and remove all of it
    Down,
    /// Show what runs; exits with 0 if the whole cluster is up, with 1 otherwise
    Status {
        /// How to write it
        #[arg(short, long, value_enum, default_value_t)]
        output: status::Output,
    },
    /// Give image archives to every node
    Load {
        /// OCI archives
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Provide all programs without starting anything, and print where they are
    Tools,
    /// Print what makes a shell use the cluster: `eval "$(cargo xtask cluster env)"`
    Env(ClusterArgs),
    /// Run kubectl on the cluster
    Kubectl(ClientArgs),
    /// Run helm on the cluster
    Helm(ClientArgs),
}

#[derive(Debug, clap::Args)]
struct ClientArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What to pass on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs `cargo xtask cluster`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::find()?;
    match &args.action {
        Action::Up { nodes, api_only } => {
            let dev = up::up(&home, up::Wanted { nodes: *nodes, api_only: *api_only })?;
            if !dev.changed {
                eprintln!("cluster was up already ({}), and all of it is well", dev.shape.describe());
            }
            eprintln!("kubeconfig: {}", dev.state.kubeconfig().display());
        }
        Action::Down => down::down(&home)?,
        Action::Status { output } => return status::status(&home, *output),
        Action::Load { archives } => {
            let cluster = ClusterHandle::Dev(up::up(&home, up::Wanted::default())?);
            load_images(&cluster, archives)?;
        }
        Action::Tools => print_tools(&home)?,
        Action::Env(cluster) => print_environment(&ensure(cluster)?),
        Action::Kubectl(client) => return pass_on(ensure(&client.cluster)?.kubectl(), &client.arguments),
        Action::Helm(client) => return pass_on(ensure(&client.cluster)?.helm(), &client.arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a dev cluster was started since this machine was, and not ended.
pub fn is_there(home: &Home) -> bool {
    state::State::new(home.cluster()).shape().is_some()
}

/// The built helm.
#[cfg(test)]
pub fn helm_program(home: &Home) -> Result<PathBuf> {
    Ok(programs::Programs::provide(home)?.path("helm"))
}

/// The program that checks metrics: promtool.
pub fn promtool(home: &Home) -> Result<PathBuf> {
    packages::provide_promtool(home)
}

/// Gives the archives to the cluster, and says what was new to it.
pub fn load_images(cluster: &ClusterHandle, archives: &[PathBuf]) -> Result<()> {
    for archive in archives {
        let what = if cluster.load_image(archive)? { "loaded" } else { "was loaded already:" };
        eprintln!("{what} {}", archive.display());
    }
    Ok(())
}

fn print_environment(cluster: &ClusterHandle) {
    if let Some(kubeconfig) = cluster.kubeconfig() {
        println!("export KUBECONFIG='{}'", kubeconfig.display());
    }
    if let Some(folder) = cluster.kubectl().get_program().to_str().and_then(|path| path.rsplit_once('/')) {
        println!("export PATH='{}':\"$PATH\"", folder.0);
    }
}

fn print_tools(home: &Home) -> Result<()> {
    let programs = programs::Programs::provide(home)?;
    println!("{}", programs.folder().display());
    println!("{}", packages::provide_promtool(home)?.display());
    Ok(())
}

fn pass_on(mut client: Command, arguments: &[OsString]) -> Result<ExitCode> {
    let status = client.args(arguments).status().context("failed to start the client")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
