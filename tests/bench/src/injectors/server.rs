//! An injector that runs, ours or another one.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use context_manager_tests::program::Operator;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// It is killed when dropped.
pub struct Server {
    /// Whose it is.
    pub name: &'static str,
    /// Where it answers reviews.
    pub url: String,
    process: Process,
}

enum Process {
    Ours(Operator),
    Other(Child),
}

impl Server {
    /// Our webhook, which was started at this address.
    pub fn ours(name: &'static str, url: String, process: Operator) -> Self {
        Self { name, url, process: Process::Ours(process) }
    }

    /// Starts another project's injector, which will answer at this address and writes `NAME.log` in a folder.
    pub fn start(name: &'static str, url: String, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = File::create(folder.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("failed to start {name}"))?;
        Ok(Self { name, url, process: Process::Other(child) })
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        match &self.process {
            Process::Ours(operator) => operator.id(),
            Process::Other(child) => child.id(),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.id())?), signal)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Process::Other(child) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
