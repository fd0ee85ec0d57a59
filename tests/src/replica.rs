//! The controller as a program, started as the chart starts it; it reaches the API server by an address of the suite's choice.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::{
    cluster::eventually,
    operator::{HOME, leads},
    sidecar::{http, program},
    webhook::{Webhook, dead_address},
};

/// How long one may take to lead: a lease that another suite left behind is waited for.
const LEADING: Duration = Duration::from_secs(45);

/// A running controller; it is killed when dropped.
pub struct Replica {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Replica {
    /// Starts one with its files in `folder`. `server` is where it finds the API server, by plain HTTP.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        folder: &Path,
        name: &str,
        server: SocketAddr,
        webhook: &Webhook,
        lease: Duration,
        resync: Duration,
    ) -> Result<Self> {
        let kubeconfig = folder.join(format!("{name}.kubeconfig"));
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "suite", "cluster": {"server": format!("http://{server}")}}],
            "users": [{"name": "suite", "user": {}}],
            "contexts": [{"name": "suite", "context": {"cluster": "suite", "user": "suite"}}],
            "current-context": "suite",
        });
        fs::write(&kubeconfig, content.to_string())?;
        let log = folder.join(format!("{name}.log"));
        let admin = dead_address()?;
        let arguments = [
            ["--namespace", HOME],
            ["--instance", name],
            ["--admin-address", &admin.to_string()],
            ["--webhook-configuration", webhook.configuration()],
            ["--lease-duration", &format!("{}s", lease.as_secs())],
            ["--resync", &format!("{}s", resync.as_secs())],
            ["--sweep", "off"],
        ];
        let child = Command::new(program("context-manager-operator")?)
            .arg("controller")
            .args(arguments.as_flattened())
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(Stdio::inherit())
            .spawn()
            .context("failed to start the controller")?;
        Ok(Self { child, admin, log })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// What it logged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// How often a line of the log has this message.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn said(&self, message: &str) -> Result<usize> {
        Ok(self.log()?.matches(&format!("\"message\":\"{message}\"")).count())
    }

    /// What is served under a path of its admin address.
    ///
    /// # Errors
    /// When it is not answered, or by an error.
    pub async fn get(&self, path: &str) -> Result<String> {
        let answer = http()?.get(format!("http://{}{path}", self.admin)).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// Whether it says that it leads.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn leads(&self) -> Result<bool> {
        Ok(leads(&self.get("/metrics").await?))
    }

    /// Waits until it leads, or does not lead any more.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn wait_until(&self, wanted: Leads) -> Result<()> {
        let outcome = eventually("the lease", LEADING, || async {
            ensure!(self.leads().await? == (wanted == Leads::Yes), "it is not so that it leads: {wanted:?}");
            Ok::<_, anyhow::Error>(())
        });
        outcome.await.with_context(|| self.log().unwrap_or_default())
    }
}

/// Whether a replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// It does.
    Yes,
    /// It waits for the lease.
    No,
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may be gone by now. One that is stopped is killed all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
