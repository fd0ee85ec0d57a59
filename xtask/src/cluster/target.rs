//! Which cluster a command works on: the dev cluster of this machine, or the one of the user's current kube context.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::packages::SystemPrograms;
use super::programs::Programs;
use super::state::{Shape, State};
use super::{load, node, up};
use crate::command;
use crate::paths::Home;

/// The arguments of every command that uses a cluster.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// The cluster to use
    #[arg(long, value_enum, default_value_t)]
    pub cluster: Target,
    /// What the names of images begin with, such as `registry.example.com/team`
    #[arg(long, value_name = "PREFIX", default_value = "localhost")]
    pub image_prefix: String,
}

/// A cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The dev cluster on this machine; started when it is not up
    #[default]
    Dev,
    /// The cluster of the current kube context; nothing of it is started, and you load the images
    Current,
}

/// A cluster that is there and answers.
#[derive(Debug)]
pub enum ClusterHandle {
    /// The dev cluster.
    Dev(Dev),
    /// Somebody else's cluster.
    Current {
        /// kubectl from `PATH`, or the built one.
        kubectl: PathBuf,
        /// helm from `PATH`, or the built one.
        helm: PathBuf,
    },
}

/// The dev cluster, up.
#[derive(Debug)]
pub struct Dev {
    pub(super) state: State,
    pub(super) programs: Programs,
    pub(super) system: Option<SystemPrograms>,
    pub(super) shape: Shape,
    /// Whether anything had to be started.
    pub(super) changed: bool,
}

impl ClusterArgs {
    /// The reference of one of the product's images.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}:{}", self.image_prefix.trim_end_matches('/'), env!("CARGO_PKG_VERSION"))
    }
}

/// Gives a cluster that answers; starts the dev cluster if that is the one, and repairs it.
pub fn ensure(args: &ClusterArgs) -> Result<ClusterHandle> {
    let home = Home::find()?;
    let handle = match args.cluster {
        Target::Dev => return Ok(ClusterHandle::Dev(up::up(&home, up::Wanted::default())?)),
        Target::Current => ClusterHandle::Current { kubectl: client(&home, "kubectl")?, helm: client(&home, "helm")? },
    };
    command::output(handle.kubectl().args(["get", "--raw=/readyz", "--request-timeout=10s"]))
        .context("the cluster of the current kube context does not answer")?;
    Ok(handle)
}

impl ClusterHandle {
    /// The kubeconfig file; `None` means the user's own settings.
    pub fn kubeconfig(&self) -> Option<PathBuf> {
        match self {
            Self::Dev(dev) => Some(dev.state.kubeconfig()),
            Self::Current { .. } => None,
        }
    }

    /// kubectl on this cluster.
    pub fn kubectl(&self) -> Command {
        self.client("kubectl")
    }

    /// helm on this cluster.
    pub fn helm(&self) -> Command {
        self.client("helm")
    }

    /// Makes sure that every node has the image of that archive, and tells whether any was without.
    pub fn load_image(&self, archive: &Path) -> Result<bool> {
        match self {
            Self::Dev(dev) => dev.load_image(archive),
            Self::Current { .. } => bail!(
                "images get into a cluster of your own by your hand: `kind load image-archive {0}`, `k3d image import {0}`, or \
                 push it to your registry",
                archive.display()
            ),
        }
    }

    /// Gives an image that every node of the dev cluster has another name beside its own.
    pub fn name_image(&self, image: &str, another: &str) -> Result<()> {
        let Self::Dev(dev) = self else { bail!("images of a cluster of your own are named by you") };
        for node in 0..dev.shape.nodes {
            command::output(dev.ctr(node)?.args(["images", "tag", "--force", image, another]))?;
        }
        Ok(())
    }

    fn client(&self, name: &str) -> Command {
        match self {
            Self::Dev(dev) => up::kubectl(&dev.programs.path(name), &dev.state.kubeconfig()),
            Self::Current { kubectl, helm } => Command::new(if name == "helm" { helm } else { kubectl }),
        }
    }
}

impl Dev {
    /// The client of one node's containerd.
    pub fn ctr(&self, node: u8) -> Result<Command> {
        match &self.system {
            Some(system) if node < self.shape.nodes => Ok(up::ctr(system, &self.state, node)),
            _ => bail!("the cluster has no {}", node::name(node)),
        }
    }

    fn load_image(&self, archive: &Path) -> Result<bool> {
        let mut loaded = false;
        for node in 0..self.shape.nodes {
            self.ctr(node)?;
            let ctr = || self.ctr(node).unwrap_or_else(|_| Command::new("ctr"));
            loaded |= load::load(ctr, archive)?;
        }
        Ok(loaded)
    }
}

fn client(home: &Home, name: &str) -> Result<PathBuf> {
    match command::find_program(name) {
        Some(found) => Ok(found),
        None => Ok(Programs::provide(home)?.path(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_is_named_by_prefix_and_version() {
        let args = ClusterArgs { cluster: Target::Current, image_prefix: "registry.example.com/team/".into() };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(args.image("thing"), format!("registry.example.com/team/thing:{version}"));
    }
}
