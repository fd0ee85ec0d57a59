//! `cargo xtask fuzz`: every fuzz target for a while, from the stored inputs on.
//!
//! What the targets check is in `tests/fuzz`. libFuzzer's instrumentation is an unstable option of the compiler, which the pinned
//! one takes when it is told to; nothing else of the project is compiled so. A C++ compiler must be there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command;
use crate::paths::{self, Home};

const CARGO_FUZZ: &str = "0.13.2";

/// The command line of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long each target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
    /// Only targets whose name contains this
    target: Option<String>,
}

/// Builds all targets and runs them one after another; a target that found something fails the run.
pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::find()?;
    let _lock = home.lock("fuzz")?;
    let program = install(&home)?;
    let folder = paths::repository().join("fuzz");
    let work = home.fuzz();
    let mut build = cargo_fuzz(&program, &folder, &work);
    if !build.args(["build", "-O"]).status().context("failed to start cargo-fuzz")?.success() {
        bail!("the fuzz targets do not build; is a C++ compiler installed?");
    }
    let mut harmed = Vec::new();
    for target in targets(&folder.join("corpus"), args.target.as_deref())? {
        let (executions, well) = run_one(&program, &folder, &work, &target, args.seconds)?;
        println!("{target:22} {executions:>10} executions  {}", if well { "no harm" } else { "HARM" });
        if !well {
            harmed.push(target);
        }
    }
    if harmed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "error: {} did harm; the inputs are in {}; add them to fuzz/corpus once they are repaired",
        harmed.join(", "),
        work.join("artifacts").display()
    );
    Ok(ExitCode::FAILURE)
}

/// The program `cargo-fuzz`, which is installed beside the other tools if it is not there.
fn install(home: &Home) -> Result<PathBuf> {
    let root = home.tools().join(format!("cargo-fuzz-{CARGO_FUZZ}"));
    let program = root.join("bin/cargo-fuzz");
    if !program.is_file() {
        eprintln!("installing cargo-fuzz {CARGO_FUZZ}");
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ, "--root"]).arg(&root);
        // Outside of the repository, so that its settings for cargo do not apply.
        command::output(cargo.current_dir(std::env::temp_dir()))?;
    }
    Ok(program)
}

fn cargo_fuzz(program: &Path, folder: &Path, work: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("fuzz").current_dir(folder).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", work.join("target"));
    command.stdin(Stdio::null());
    command
}

/// The names of the folders of inputs.
fn targets(corpus: &Path, filter: Option<&str>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(corpus).with_context(|| format!("failed to list {}", corpus.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| filter.is_none_or(|filter| name.contains(filter)));
    names.sort();
    if names.is_empty() {
        bail!("there is no such target in {}", corpus.display());
    }
    Ok(names)
}

/// Runs a target; says how many inputs it tried, and whether all went well. What it finds interesting is kept for the next run.
fn run_one(program: &Path, folder: &Path, work: &Path, target: &str, seconds: u64) -> Result<(u64, bool)> {
    let (found, artifacts) = (work.join("found").join(target), work.join("artifacts").join(target));
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    let mut command = cargo_fuzz(program, folder, work);
    command.args(["run", "-O", target]).arg(&found).arg(folder.join("corpus").join(target)).arg("--");
    command.args([format!("-max_total_time={seconds}"), "-print_final_stats=1".to_owned()]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let done = command.output().context("failed to start cargo-fuzz")?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        eprintln!("{}", command::tail(&said, 40));
    }
    Ok((executions(&said), done.status.success()))
}

fn executions(said: &str) -> u64 {
    let figure = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    figure.and_then(|figure| figure.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_libfuzzers_closing_lines() {
        assert_eq!(
            executions("Done\nstat::number_of_executed_units: 51322\nstat::average_exec_per_sec:     10\n"),
            51_322
        );
        assert_eq!(executions("it ended before"), 0);
    }

    #[test]
    fn every_folder_of_inputs_is_a_target_that_is_built() {
        let folder = paths::repository().join("fuzz");
        for name in targets(&folder.join("corpus"), None).expect("targets") {
            assert!(folder.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name}");
        }
        assert!(targets(&folder.join("corpus"), Some("no such")).is_err());
    }
}
