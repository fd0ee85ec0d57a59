//! helm on the suites' cluster, with folders of its own.

use std::{env, ffi::OsString, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use tempfile::TempDir;

use crate::cluster::{self, Namespace, eventually};

/// Environment variable with the path of helm, which is otherwise looked for in `PATH`.
pub const HELM: &str = "CONTEXT_MANAGER_TEST_HELM";

/// How long a part of the chart may take to be ready.
const READY: Duration = Duration::from_mins(2);

/// A release in a namespace. It is uninstalled when dropped, for what it has in the whole cluster would concern other suites.
pub struct Release {
    name: String,
    namespace: String,
    folder: TempDir,
}

impl Release {
    /// Installs nothing yet.
    ///
    /// # Errors
    /// When there is no room for a folder.
    pub fn new(name: &str, namespace: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), namespace: namespace.to_owned(), folder: tempfile::tempdir()? })
    }

    /// A folder that ends with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `helm install NAME CHART`, or another verb, with more arguments behind; what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn helm(&self, verb: &[&str], arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::from(self.command(verb)?);
        let output = command.args(arguments).output().await.context("helm is not there; run `cargo xtask test`")?;
        if !output.status.success() {
            bail!("helm {verb:?} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until so many pods of a part of the chart are ready and stay.
    ///
    /// # Errors
    /// When there are others in the end.
    pub async fn ready_pods(&self, home: &Namespace, component: &str, count: usize) -> Result<Vec<Pod>> {
        let is_ready =
            |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && context_manager_operator::pods::is_ready(pod);
        eventually(&format!("{count} pods of the {component}"), READY, || async {
            let mut pods = self.pods(home, component).await?;
            pods.retain(is_ready);
            ensure!(pods.len() == count, "{} are ready", pods.len());
            Ok::<_, anyhow::Error>(pods)
        })
        .await
    }

    /// The pods of a part of the chart.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, home: &Namespace, component: &str) -> Result<Vec<Pod>> {
        let selector = format!("app.kubernetes.io/instance={},app.kubernetes.io/component={component}", self.name);
        Ok(home.api::<Pod>().list(&ListParams::default().labels(&selector)).await?.items)
    }

    fn command(&self, verb: &[&str]) -> Result<Command> {
        let program = env::var_os(HELM).filter(|path| !path.is_empty()).unwrap_or_else(|| OsString::from("helm"));
        let mut command = Command::new(program);
        command.args(verb).args([&self.name, "--namespace", &self.namespace]).env("KUBECONFIG", cluster::kubeconfig()?);
        for home in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(home, self.folder.path().join("helm"));
        }
        Ok(command)
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let uninstall = self.command(&["uninstall", "--ignore-not-found"]).map(|mut command| command.output());
        if let Ok(Ok(output)) = uninstall
            && !output.status.success()
        {
            eprintln!("failed to uninstall {}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        }
    }
}
