//! `cargo xtask eval`: how well retrieval finds, on conversations in LoCoMo's format.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::build::Release;
use crate::paths::Home;

/// The command line of `cargo xtask eval`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Passed on; `cargo xtask eval --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// Builds the programs and runs the evaluation with the given options.
pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::find()?;
    // So that no run of another checkout puts its programs in the place of these.
    let _lock = home.lock("installation")?;
    let release = Release::new(&home)?;
    release.measuring_binaries()?;
    let mut eval = Command::new(release.binary("eval"));
    let status = eval.args(&args.options).status().context("failed to start the evaluation")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
