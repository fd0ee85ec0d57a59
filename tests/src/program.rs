//! The operator's program as processes of this machine, which are stopped as a kubelet stops them or killed as an empty node kills them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::{self, eventually},
    operator::HOME,
    sidecar::{http, program},
    webhook::dead_address,
};

const START: Duration = Duration::from_secs(20);

/// A running process of the operator; it is killed when dropped.
pub struct Operator {
    child: Child,
    arguments: Vec<String>,
    log: PathBuf,
    kubeconfig: PathBuf,
    /// Where probes and metrics are served.
    pub admin: SocketAddr,
}

impl Operator {
    /// Starts `arguments`, the first of which names the part, and goes on writing `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(arguments: &[&str], log: &Path) -> Result<Self> {
        Self::start_with(arguments, log, &cluster::kubeconfig()?)
    }

    /// Starts a controller of [`HOME`] that is meant to be killed: it has no time to say good-bye, and its lease ends soon after it. Each has
    /// an `instance` of its own; `more` are further arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn mortal(instance: &str, more: &[&str], folder: &Path) -> Result<Self> {
        let arguments = [
            ["--namespace", HOME],
            ["--instance", instance],
            ["--lease-duration", "6s"],
            ["--resync", "1s"],
            ["--sweep", "off"],
        ];
        Self::start(&[&["controller"], arguments.as_flattened(), more].concat(), &folder.join("controller.log"))
    }

    /// The same as [`Self::start`], with another way to the API server.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(arguments: &[&str], log: &Path, kubeconfig: &Path) -> Result<Self> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::start_at(arguments, log, kubeconfig, dead_address()?)
    }

    fn start_at(arguments: Vec<String>, log: &Path, kubeconfig: &Path, admin: SocketAddr) -> Result<Self> {
        let written = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(program("context-manager-operator")?)
            .args(&arguments)
            .args(["--admin-address", &admin.to_string()])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(written.try_clone()?)
            .stderr(written)
            .spawn()
            .context("failed to start the operator")?;
        Ok(Self { child, arguments, log: log.to_owned(), kubeconfig: kubeconfig.to_owned(), admin })
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn again(self) -> Result<Self> {
        Self::start_at(self.arguments.clone(), &self.log, &self.kubeconfig, self.admin)
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end so.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the operator ended with {status}");
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Ends it without a good-bye.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// A page of its admin listener.
    ///
    /// # Errors
    /// When it does not answer, or answers that something is wrong.
    pub async fn page(&self, path: &str) -> Result<String> {
        page(self.admin, path).await
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready, with what it logged.
    pub async fn ready(&self) -> Result<()> {
        let ready = eventually("the operator's readiness", START, || self.page("/readyz")).await;
        ready.map(drop).with_context(|| self.logged())
    }

    /// What it logged.
    #[must_use]
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A page of an admin listener.
///
/// # Errors
/// When it does not answer, or answers that something is wrong.
pub async fn page(admin: SocketAddr, path: &str) -> Result<String> {
    let answer = http()?.get(format!("http://{admin}{path}")).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    Ok(text)
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
