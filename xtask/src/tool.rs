//! Programs that tests run, built once by Go from pinned sources.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::paths::Home;

/// The program of a package, such as `github.com/yuin/gopher-lua/cmd/glua`, at a version.
pub fn built_by_go(package: &str, version: &str) -> Result<PathBuf> {
    let name = package.rsplit('/').next().unwrap_or(package);
    let home = Home::find()?;
    let folder = home.tools().join(format!("{name}-{}", version.trim_start_matches('v')));
    let program = folder.join(name);
    let _lock = home.lock("tools")?;
    if !program.is_file() {
        let mut go = Command::new("go");
        go.env("GOBIN", &folder).args(["install", &format!("{package}@{version}")]);
        command::output(&mut go).context("Go 1.26 or newer is needed for this test")?;
    }
    Ok(program)
}
