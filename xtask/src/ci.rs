//! `cargo xtask ci`: what continuous integration runs, in the order in which it fails soonest.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::build::Release;
use crate::paths::{self, Home};
use crate::{arrows, test};

/// Runs every check; the first that fails ends the run.
pub fn run() -> Result<ExitCode> {
    let release = Release::new(&Home::find()?)?;
    let mut format = Command::new("cargo");
    format.args(["fmt", "--all", "--check"]).current_dir(paths::repository());
    if !step("format", &mut format)? {
        return Ok(ExitCode::FAILURE);
    }
    println!("==> arrows between crates");
    if arrows::run()? != ExitCode::SUCCESS {
        return Ok(ExitCode::FAILURE);
    }
    let mut clippy = release.cargo("clippy");
    clippy.args(["--all-targets", "--", "-D", "warnings"]);
    if !step("lints", &mut clippy)? {
        return Ok(ExitCode::FAILURE);
    }
    println!("==> generated files and tests");
    test::run(&test::Args { filter: None })
}

fn step(name: &str, command: &mut Command) -> Result<bool> {
    println!("==> {name}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("failed to start the step {name:?}"))?;
    if !status.success() {
        eprintln!("error: the step {name:?} failed ({status})");
    }
    Ok(status.success())
}
