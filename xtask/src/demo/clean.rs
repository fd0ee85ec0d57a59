//! Removes what the demo made, and nothing that it did not make.

use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result, bail};

use super::kube::{Kube, items, text, wait_for};
use super::screen::Screen;
use super::{AGENTS, DEFINITION, MARK, RELEASE, SYSTEM, screen, volume};
use crate::paths::Home;

/// `cargo xtask demo --clean`.
pub fn run(kube: &Kube, screen: &mut Screen, home: &Home) -> Result<()> {
    if is_needed(kube)? {
        screen.extra_step("Remove what an earlier run left", || all(kube))?;
    } else {
        println!("nothing of the demo is in the cluster");
    }
    files(home)
}

/// Removes what runs of the demo keep on this machine.
pub fn files(home: &Home) -> Result<()> {
    match fs::remove_dir_all(home.demo()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", home.demo().display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether an earlier run left anything. An installation that is not the demo's is an error: it must not be touched.
pub fn is_needed(kube: &Kube) -> Result<bool> {
    let marked = kube.json(&["namespaces", "-l", MARK])?;
    let marked: Vec<_> =
        items(&marked, "/items").iter().filter_map(|found| text(found, "/metadata/name").ok()).collect();
    for namespace in [SYSTEM, AGENTS] {
        if marked.contains(&namespace) || !kube.exists("namespace", namespace)? {
            continue;
        }
        let pods = kube.json(&["-n", namespace, "pods"])?;
        if !items(&pods, "/items").is_empty() {
            bail!(
                "pods that the demo did not start run in the namespace {namespace} (it lacks the label {MARK}); end them, or \
                 use another cluster"
            );
        }
    }
    Ok(!marked.is_empty() || kube.exists("persistentvolume", volume::NAME)?)
}

/// Deletes the agents, then the release, then the definition, and checks that nothing is left.
pub fn all(kube: &Kube) -> Result<()> {
    const WAIT: &str = "--timeout=120s";
    // The agents go first, while the operator can still see their resource off.
    if kube.exists("namespace", AGENTS)? {
        // A namespace whose pods are gone already is gone at once; otherwise it waits half of their grace period.
        let examples = ["-f", "examples/job.yaml", "-f", "examples/agent.yaml"];
        kube.run(&[&["delete"], &examples[..], &["--ignore-not-found", "--cascade=foreground", WAIT]].concat())?;
        kube.run(&["delete", "namespace", AGENTS, WAIT])?;
    }
    if kube.exists("persistentvolume", volume::NAME)? {
        kube.run(&["delete", "persistentvolume", volume::NAME, WAIT])?;
    }
    volume::remove_folder(&Home::find()?)?;
    if kube.exists("namespace", SYSTEM)? {
        let uninstall = ["uninstall", RELEASE, "--namespace", SYSTEM, "--ignore-not-found"];
        kube.helm(&[&uninstall[..], &["--cascade", "foreground", "--wait", "--timeout", "2m"]].concat())?;
        kube.run(&["delete", "namespace", SYSTEM, WAIT])?;
    }
    definition(kube)?;
    wait_for("everything to be gone", Duration::from_secs(30), || {
        let left: Vec<_> = [("namespace", AGENTS), ("namespace", SYSTEM), ("mutatingwebhookconfiguration", RELEASE)]
            .into_iter()
            .filter(|(kind, name)| kube.exists(kind, name).unwrap_or(true))
            .collect();
        if left.is_empty() { Ok(Some(())) } else { bail!("still there: {left:?}") }
    })?;
    screen::checked("nothing of it is left in the cluster");
    Ok(())
}

/// The definition goes last, and only if that deletes nobody's resources.
fn definition(kube: &Kube) -> Result<()> {
    if !kube.exists("crd", DEFINITION)? {
        return Ok(());
    }
    let others = kube.json(&[DEFINITION, "--all-namespaces"])?;
    let others = items(&others, "/items").len();
    if others > 0 {
        screen::note(&format!(
            "the definition stays: {others} ContextManagers in other namespaces would be deleted with it"
        ));
        return Ok(());
    }
    kube.run(&["delete", "crd", DEFINITION, "--timeout=60s"])?;
    Ok(())
}
