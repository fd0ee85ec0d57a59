//! What GitOps asks for: applying the same objects again changes nothing, and taking them away leaves nothing.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::cluster::{self, Namespace};
use serde_json::Value;

/// kubectl with the cluster of the tests.
fn kubectl(arguments: &[&str]) -> Result<(bool, String)> {
    let program = env::var_os("CONTEXT_MANAGER_TEST_KUBECTL").unwrap_or_else(|| "kubectl".into());
    let mut command = Command::new(program);
    if let Some(kubeconfig) = env::var_os("CONTEXT_MANAGER_TEST_KUBECONFIG") {
        command.env("KUBECONFIG", kubeconfig);
    }
    let output =
        command.args(arguments).output().context("kubectl is not there; run the suites by `cargo xtask test`")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said))
}

fn must(arguments: &[&str]) -> Result<String> {
    let (succeeded, said) = kubectl(arguments)?;
    ensure!(succeeded, "kubectl {arguments:?}: {said}");
    Ok(said)
}

/// An overlay as a user would write one, which starts no pod and leaves the cluster's definition of the resource and its
/// namespace alone: the suites share both.
fn overlay(folder: &Path, namespace: &str) -> Result<()> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base").canonicalize()?;
    // kustomize takes relative paths only.
    let up = "../".repeat(folder.canonicalize()?.components().count() - 1);
    let base = format!("{up}{}", base.display().to_string().trim_start_matches('/'));
    let delete = |kind: &str, name: &str| {
        format!(
            "  - {{target: {{kind: {kind}}}, patch: \"{{$patch: delete, kind: {kind}, metadata: {{name: {name}}}}}\"}}\n"
        )
    };
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [\"{base}\"]\nnamespace: {namespace}\n\
         nameSuffix: -{namespace}\nreplicas:\n  - {{name: context-manager-controller, count: 0}}\n  \
         - {{name: context-manager-webhook, count: 0}}\npatches:\n{}{}{}",
        delete("CustomResourceDefinition", "contextmanagers.contextmanager.dev"),
        delete("Namespace", "context-manager-system"),
        // While nobody answers, pods that ask would be refused, those of other suites too.
        "  - target: {kind: MutatingWebhookConfiguration}\n    patch: |\n      \
         - {op: replace, path: /webhooks/0/failurePolicy, value: Ignore}\n      \
         - {op: replace, path: /webhooks/1/failurePolicy, value: Ignore}\n",
    );
    fs::write(folder.join("kustomization.yaml"), text).context("failed to write the overlay")
}

/// Name and version of every object.
fn versions(folder: &str) -> Result<Vec<(String, String)>> {
    let list: Value = serde_json::from_str(&must(&["get", "-k", folder, "-o", "json"])?)?;
    let items = list["items"].as_array().context("a list")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut versions: Vec<_> = items
        .iter()
        .map(|item| {
            let name = format!("{} {}", text(&item["kind"]), text(&item["metadata"]["name"]));
            (name, text(&item["metadata"]["resourceVersion"]))
        })
        .collect();
    versions.sort();
    Ok(versions)
}

#[tokio::test]
async fn applying_twice_changes_nothing_and_deleting_leaves_nothing() -> Result<()> {
    let client = cluster::client().await?;
    let namespace = Namespace::create(&client, "gitops", &[]).await?;
    let folder = tempfile::tempdir()?;
    overlay(folder.path(), &namespace.name)?;
    let path = folder.path().to_str().context("a path in UTF-8")?;
    must(&["apply", "--server-side", "--field-manager=gitops", "--validate=strict", "-k", path])?;
    // Controllers write the status of these meanwhile, which is no change of what was applied.
    let with_status = |name: &str| name.starts_with("Deployment ") || name.starts_with("PodDisruptionBudget ");
    let settled = |versions: Vec<(String, String)>| {
        versions.into_iter().filter(|(name, _)| !with_status(name)).collect::<Vec<_>>()
    };
    let first = settled(versions(path)?);
    ensure!(first.len() >= 12, "only these objects are there: {first:?}");
    let (same, difference) = kubectl(&["diff", "--server-side", "--field-manager=gitops", "-k", path])?;
    ensure!(same, "there is a difference right after applying:\n{difference}");
    must(&["apply", "--server-side", "--field-manager=gitops", "-k", path])?;
    assert_eq!(settled(versions(path)?), first, "applying again wrote something");
    must(&["delete", "--wait", "--timeout=60s", "-k", path])?;
    let (_, left) = kubectl(&["get", "-k", path, "--ignore-not-found", "-o", "name"])?;
    ensure!(left.trim().is_empty(), "these objects are left: {left}");
    Ok(())
}
