//! A part of the operator as the program that it is in a pod, so that its memory is its own.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use context_manager_tests::{cluster, program::Operator, webhook::sidecar_image};
use kube::config::Kubeconfig;

/// Starts it with the subcommand and flags of `arguments`, and waits until it is ready.
pub async fn start(arguments: &[&str], folder: &Path, kubeconfig: &Path) -> Result<Operator> {
    let log = folder.join("operator.log");
    let part = Operator::start_with(&[arguments, &["--log-level", "warn"]].concat(), &log, kubeconfig)?;
    part.ready().await?;
    Ok(part)
}

/// Starts the webhook. `home` is its namespace, and the name of its configuration.
pub async fn webhook(folder: &Path, home: &str, address: &str) -> Result<Operator> {
    let flags = [
        ["--address", address],
        ["--namespace", home],
        ["--webhook-configuration", home],
        ["--server-name", "127.0.0.1"],
        ["--sidecar-image", &sidecar_image()],
    ];
    start(&[&["webhook"], flags.as_flattened()].concat(), folder, &cluster::kubeconfig()?).await
}

/// The sum of a metric's series.
pub async fn metric(part: &Operator, name: &str) -> Result<f64> {
    let page = part.page("/metrics").await?;
    let series = page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    series.map(|line| Ok(line.rsplit(' ').next().context("a metric has a value")?.parse::<f64>()?)).sum()
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
