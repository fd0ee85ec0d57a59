//! `cargo xtask bench`: the figures of the product on this machine.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::build::Release;
use crate::cluster::{self, ClusterArgs, Target};
use crate::paths::Home;
use crate::tool::{self, Module};
use crate::{demo, images};

/// Gives the cluster nodes that are not there; pinned, because its configuration is ours.
const KWOK: &str = "sigs.k8s.io/kwok/cmd/kwok";
const KWOK_VERSION: &str = "v0.8.0";
/// What our webhook is compared with; pinned, because what they are asked and how they are started is ours.
const VAULT: Module = Module { path: "github.com/hashicorp/vault-k8s", version: "v1.6.2", folder: None };
const COLLECTOR: Module = Module {
    path: "github.com/open-telemetry/opentelemetry-operator",
    version: "v0.136.0",
    folder: Some("config/crd/bases"),
};

/// The command line of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also write the figures to this file, as a list of `{name, value, unit, target, met}`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer calls, and not the largest memory
    #[arg(long)]
    quick: bool,
    /// Measure only this: programs, images, codec, memory, start, immediate, retrieve, store, admission, injectors or scale; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

impl Args {
    fn wants(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == section)
    }
}

/// Builds what is measured, starts the dev cluster if pods are to be created, and measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::find()?;
    let target = ClusterArgs { cluster: Target::Dev, image_prefix: "localhost".to_owned() };
    let _lock = home.lock("installation")?;
    let release = Release::new(&home)?;
    let mut bench = Command::new(release.binary("bench"));
    if args.wants("scale") {
        bench.env("CONTEXT_MANAGER_BENCH_KWOK", tool::built_by_go(KWOK, KWOK_VERSION)?);
    }
    if args.wants("injectors") {
        let (vault, collector) = (tool::built_from_module(&VAULT)?, tool::built_from_module(&COLLECTOR)?);
        bench
            .env("CONTEXT_MANAGER_BENCH_VAULT_K8S", vault.join("vault-k8s"))
            .env("CONTEXT_MANAGER_BENCH_OPENTELEMETRY_OPERATOR", collector.join("opentelemetry-operator"))
            .env("CONTEXT_MANAGER_BENCH_OPENTELEMETRY_DEFINITIONS", collector.join("bases"));
    }
    if ["admission", "injectors", "scale"].iter().any(|section| args.wants(section)) {
        let cluster = cluster::ensure(&target)?;
        // Its webhook and controller would have their part in what is measured.
        demo::check_absent(&cluster)?;
        if let Some(kubeconfig) = cluster.kubeconfig() {
            bench.env("CONTEXT_MANAGER_TEST_KUBECONFIG", kubeconfig);
        }
    }
    if args.wants("images") {
        images::build(&target)?;
        bench.env("CONTEXT_MANAGER_BENCH_IMAGES", home.images());
    } else {
        release.measuring_binaries()?;
    }
    if let Some(file) = &args.json {
        bench.arg("--json").arg(file);
    }
    if args.quick {
        bench.arg("--quick");
    }
    for name in &args.only {
        bench.args(["--only", name]);
    }
    let status = bench.status().context("failed to start the benchmark")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
