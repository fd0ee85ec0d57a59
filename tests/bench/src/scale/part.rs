//! A part of the operator as the program that it is in a pod, so that its memory is its own.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::{
    cluster::{self, eventually},
    sidecar::program,
    webhook::dead_address,
};
use kube::config::Kubeconfig;

use super::PATIENCE;
use crate::sizes::Memory;

/// A running part; it ends when dropped.
pub struct Part {
    child: Child,
    admin: SocketAddr,
}

impl Part {
    /// Starts it with the subcommand and flags of `arguments`, and waits until it is ready.
    pub async fn start(kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let admin = dead_address()?;
        let child = Command::new(program("context-manager-operator")?)
            .args(arguments)
            .args(["--admin-address", &admin.to_string()])
            .env("KUBECONFIG", kubeconfig)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("failed to start the operator")?;
        let part = Self { child, admin };
        eventually(arguments[0], PATIENCE, || part.page("/readyz")).await?;
        Ok(part)
    }

    /// A page of its admin listener.
    pub async fn page(&self, path: &str) -> Result<String> {
        cluster::install_tls();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let answer = http.get(format!("http://{}{path}", self.admin)).send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(answer.text().await?)
    }

    /// The sum of a metric's series.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let page = self.page("/metrics").await?;
        let series =
            page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        series.map(|line| Ok(line.rsplit(' ').next().context("a metric has a value")?.parse::<f64>()?)).sum()
    }

    /// What it takes now.
    pub fn memory(&self) -> Result<Memory> {
        Memory::of(self.child.id())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a kubeconfig whose client acts as a user.
pub fn kubeconfig_of(user: &str, path: &Path) -> Result<()> {
    let mut config = Kubeconfig::read_from(cluster::kubeconfig()?)?;
    for named in &mut config.auth_infos {
        let info = named.auth_info.as_mut().context("the kubeconfig has a user")?;
        info.impersonate = Some(user.to_owned());
        info.impersonate_groups = Some(vec!["system:authenticated".to_owned()]);
    }
    fs::write(path, serde_json::to_string(&config)?).with_context(|| format!("failed to write {}", path.display()))
}
