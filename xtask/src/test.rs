//! `cargo xtask test`: every test of the project, and a last line that counts them. Before them, generated files are compared
//! with what the code makes, and the dev cluster is started and given the images: the suites run on the real parts.

use std::io::{BufRead as _, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::build::Release;
use crate::cluster::{self, ClusterArgs, Target};
use crate::paths::Home;
use crate::{demo, generate, images};

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    pub filter: Option<String>,
}

/// Sums of libtest's closing lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that are marked as ignored.
    pub ignored: u64,
}

/// Runs the tests and counts them. No test at all is a failure: a suite that runs nothing proves nothing.
pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::find()?;
    let release = Release::new(&home)?;
    let target = ClusterArgs { cluster: Target::Dev, image_prefix: "localhost".to_owned() };
    // The suites and a demo would see each other's webhook and controller.
    let _lock = home.lock("installation")?;
    let cluster = cluster::ensure(&target)?;
    demo::check_absent(&cluster)?;
    // The suites start the programs themselves, on this machine and as pods.
    cluster::load_images(&cluster, &images::build(&target)?)?;
    if generate::check_by(&release.binary("crdgen"))? != ExitCode::SUCCESS {
        return Ok(ExitCode::FAILURE);
    }
    let mut cargo = release.cargo("test");
    cargo.arg("--no-fail-fast").env("CONTEXT_MANAGER_TEST_PROMTOOL", cluster::promtool(&home)?);
    cargo.env("CONTEXT_MANAGER_TEST_KUBECTL", cluster.kubectl().get_program());
    if let Some(kubeconfig) = cluster.kubeconfig() {
        cargo.env("CONTEXT_MANAGER_TEST_KUBECONFIG", kubeconfig);
    }
    if let Some(filter) = &args.filter {
        cargo.arg(filter);
    }
    let (count, success) = stream(&mut cargo, &mut std::io::stdout())?;
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.ignored);
    Ok(if success && count.failed == 0 && count.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a test command, shows what it prints as it comes, and adds up its closing lines.
fn stream(command: &mut Command, shown: &mut impl Write) -> Result<(Count, bool)> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("failed to start cargo; is it in PATH?")?;
    let mut count = Count::default();
    if let Some(pipe) = child.stdout.take() {
        for line in BufReader::new(pipe).split(b'\n') {
            let line = line?;
            shown.write_all(&line)?;
            shown.write_all(b"\n")?;
            count.add(&String::from_utf8_lossy(&line));
        }
    }
    Ok((count, child.wait()?.success()))
}

impl Count {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines count nothing.
    fn add(&mut self, line: &str) {
        let Some((_, figures)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for figure in figures.split("; ") {
            let Some((number, what)) = figure.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up_and_nothing_else() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "test 5 passed; 5 failed",
            "running 9 tests",
        ] {
            count.add(line);
        }
        assert_eq!(count, Count { passed: 5, failed: 4, ignored: 1 });
    }

    #[test]
    fn a_failing_test_command_is_noticed() {
        let mut shown = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 1 passed; 0 failed'; exit 1"]);
        let (count, success) = stream(&mut command, &mut shown).expect("the shell runs everywhere");
        assert_eq!((count.passed, success), (1, false));
        assert_eq!(shown, b"test result: ok. 1 passed; 0 failed\n");
    }
}
