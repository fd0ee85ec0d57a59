//! The controller as a program, which reaches the API server by an address of the suite's choice.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    cluster::eventually,
    operator::{HOME, leads},
    program::Operator,
    webhook::Webhook,
};

/// How long one may take to lead: a lease that another suite left behind is waited for.
const LEADING: Duration = Duration::from_secs(75);

/// A running controller; it is killed when dropped.
pub struct Replica {
    /// Its process.
    pub process: Operator,
}

/// Whether a replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// It does.
    Yes,
    /// It waits for the lease.
    No,
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
        let arguments = [
            ["--namespace", HOME],
            ["--instance", name],
            ["--webhook-configuration", webhook.configuration()],
            ["--lease-duration", &format!("{}s", lease.as_secs())],
            ["--resync", &format!("{}s", resync.as_secs())],
            ["--sweep", "off"],
        ];
        let arguments = [&["controller"], arguments.as_flattened()].concat();
        let process = Operator::start_with(&arguments, &folder.join(format!("{name}.log")), &kubeconfig)?;
        Ok(Self { process })
    }

    /// How often a line of its log has this message.
    #[must_use]
    pub fn said(&self, message: &str) -> usize {
        self.process.logged().matches(&format!("\"message\":\"{message}\"")).count()
    }

    /// Whether it says that it leads.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn leads(&self) -> Result<bool> {
        Ok(leads(&self.process.page("/metrics").await?))
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
        outcome.await.with_context(|| self.process.logged())
    }
}
