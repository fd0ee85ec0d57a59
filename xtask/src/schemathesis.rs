//! Schemathesis, which tries the protocol by its OpenAPI document, in a virtual environment of the cache.
//!
//! Python is not needed for anything else here, so a machine without it runs every other test, and says that this one is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::command;
use crate::paths::{self, Home};

/// The variable by which the test finds the program.
pub const VARIABLE: &str = "CONTEXT_MANAGER_TEST_SCHEMATHESIS";
/// The test that needs it.
pub const TEST: &str = "schemathesis_finds_no_difference_between_the_document_and_the_program";
/// What is installed, every package with its version.
const REQUIREMENTS: &str = "tests/openapi/requirements.txt";

/// The program, installed if it is not there yet.
///
/// # Errors
/// When Python or the packages cannot be had; the message says what to do.
pub fn program(home: &Home) -> Result<PathBuf> {
    let requirements = paths::repository().join(REQUIREMENTS);
    let pinned = fs::read(&requirements).with_context(|| format!("failed to read {}", requirements.display()))?;
    let _lock = home.lock("schemathesis")?;
    let environment = home.schemathesis(&fingerprint(&pinned));
    let program = environment.join("bin/schemathesis");
    // An installation that was interrupted lacks the mark and is begun anew.
    let complete = environment.join("complete");
    if !complete.is_file() {
        eprintln!("installing schemathesis in {}", environment.display());
        let _ = fs::remove_dir_all(&environment);
        install(&environment, &requirements)?;
        fs::write(&complete, "").with_context(|| format!("failed to write {}", complete.display()))?;
    }
    Ok(program)
}

fn install(environment: &Path, requirements: &Path) -> Result<()> {
    let python = command::find_program("python3").context("python3 is not in PATH; install Python 3.10 or newer")?;
    let own = environment.join("bin/python");
    let made = command::output(Command::new(&python).args(["-m", "venv"]).arg(environment));
    let mut pip = Command::new(&own);
    if let Err(incomplete) = made {
        // Debian keeps pip for virtual environments in a package of its own; the system's pip, if there is one, will do.
        command::output(Command::new(&python).args(["-m", "venv", "--clear", "--without-pip"]).arg(environment))
            .with_context(|| format!("python3 makes no virtual environment; install python3-venv ({incomplete:#})"))?;
        pip = Command::new(&python);
        pip.args(["-m", "pip", "--python"]).arg(&own);
    } else {
        pip.args(["-m", "pip"]);
    }
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--requirement"]).arg(requirements);
    command::output(&mut pip)
        .context("pip cannot install schemathesis; see whether a package index is within reach")?;
    Ok(())
}

/// Names an environment by what is in it.
fn fingerprint(pinned: &[u8]) -> String {
    let digest = Sha256::digest(pinned);
    digest.iter().take(6).fold(String::new(), |name, byte| name + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_has_a_version() {
        let text = fs::read_to_string(paths::repository().join(REQUIREMENTS)).expect("readable");
        assert!(text.lines().any(|line| line.starts_with("schemathesis==")));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.contains("=="), "{line}");
        }
    }

    #[test]
    fn the_test_that_needs_it_is_the_one_that_can_be_left_out() {
        let suite = fs::read_to_string(paths::repository().join("tests/tests/openapi.rs")).expect("readable");
        assert!(suite.contains(&format!("async fn {TEST}()")) && suite.contains(VARIABLE));
    }
}
