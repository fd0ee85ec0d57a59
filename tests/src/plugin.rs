//! `kubectl-context`, started as kubectl starts it.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::{cluster, sidecar::program};

/// What it said, and its exit code.
#[derive(Clone, Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// The standard output.
    pub text: String,
    /// The standard error.
    pub notes: String,
}

impl Said {
    /// The standard output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("{self:?}"))
    }

    /// The answer, if the exit code is this one.
    ///
    /// # Errors
    /// When it is another.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "not exit code {code}, but {self:?}");
        Ok(self)
    }
}

/// Runs it on the suites' cluster.
///
/// # Errors
/// When it cannot be started, or is killed.
pub async fn run(arguments: &[&str]) -> Result<Said> {
    run_on(&cluster::kubeconfig()?, arguments).await
}

/// Runs it with another kubeconfig.
///
/// # Errors
/// When it cannot be started, or is killed.
pub async fn run_on(kubeconfig: &Path, arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new(program("kubectl-context")?);
    command.args(arguments).env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
    let output = command.output().await.context("failed to start kubectl-context")?;
    Ok(Said {
        code: output.status.code().with_context(|| format!("{arguments:?} was killed"))?,
        text: String::from_utf8_lossy(&output.stdout).into_owned(),
        notes: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The files of a support bundle, by their paths in its folder.
///
/// # Errors
/// When it is none.
pub fn unpack(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(path)?));
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.iter().skip(1).collect::<PathBuf>().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        files.insert(name, text);
    }
    Ok(files)
}
