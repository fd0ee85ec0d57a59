//! `cargo xtask bench`: the figures of the product on this machine.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::build::Release;
use crate::cluster::{self, ClusterArgs, Target};
use crate::paths::Home;
use crate::{demo, images};

/// The command line of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also write the figures to this file, as a list of `{name, value, unit, target, met}`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Builds everything, starts the dev cluster and measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::find()?;
    let target = ClusterArgs { cluster: Target::Dev, image_prefix: "localhost".to_owned() };
    let _lock = home.lock("installation")?;
    let release = Release::new(&home)?;
    let cluster = cluster::ensure(&target)?;
    // Its webhook and controller would have their part in what is measured.
    demo::check_absent(&cluster)?;
    images::build(&target)?;
    let mut bench = Command::new(release.binary("bench"));
    bench.env("CONTEXT_MANAGER_BENCH_IMAGES", home.images());
    if let Some(kubeconfig) = cluster.kubeconfig() {
        bench.env("CONTEXT_MANAGER_TEST_KUBECONFIG", kubeconfig);
    }
    if let Some(file) = &args.json {
        bench.arg("--json").arg(file);
    }
    let status = bench.status().context("failed to start the benchmark")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
