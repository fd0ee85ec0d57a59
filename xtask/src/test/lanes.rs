//! Which test programs may run at the same time.
//!
//! The suites of `tests/` have one dev cluster: they install an operator, take its lease and change nodes, so they follow one another. They
//! wait most of the time, for leases, kubelets and certificates. What needs no cluster runs beside them.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{command, paths};

/// The package of the suites.
const SUITES: &str = "context-manager-tests";
/// Those of its suites that need no cluster. Whatever is not named here waits for its turn on it.
const WITHOUT_CLUSTER: [&str; 14] = [
    "audit",
    "bad_input",
    "crash",
    "disk_full",
    "durability",
    "embedding_faults",
    "garbage",
    "openapi",
    "outage",
    "re_embedding",
    "socket",
    "store_faults",
    "stream",
    "trace_export",
];

/// What cargo is told to select, for the programs of each lane.
#[derive(Debug, PartialEq, Eq)]
pub struct Lanes {
    /// Those that take turns on the cluster.
    pub cluster: Vec<String>,
    /// The others.
    pub beside: Vec<String>,
}

impl Lanes {
    /// Those of this workspace.
    pub fn of_workspace() -> Result<Self> {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(paths::repository()).args(["metadata", "--no-deps", "--format-version", "1"]);
        Self::of(&command::output(&mut cargo)?)
    }

    /// Every test program of a workspace, by what `cargo metadata` says of it; the tests in documentation are not among them.
    fn of(metadata: &str) -> Result<Self> {
        let metadata: Value = serde_json::from_str(metadata).context("`cargo metadata` does not say JSON")?;
        let mut lanes = Self { cluster: Vec::new(), beside: vec!["--lib".to_owned(), "--bins".to_owned()] };
        for package in list(&metadata["packages"]) {
            for target in list(&package["targets"]) {
                let is_suite = list(&target["kind"]).any(|kind| kind == "test");
                let Some(name) = target["name"].as_str().filter(|_| is_suite) else { continue };
                let is_beside = package["name"] != SUITES || WITHOUT_CLUSTER.contains(&name);
                let lane = if is_beside { &mut lanes.beside } else { &mut lanes.cluster };
                lane.extend(["--test".to_owned(), name.to_owned()]);
            }
        }
        Ok(lanes)
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn each_suite_is_in_one_lane() {
        let lanes = Lanes::of(
            r#"{"packages": [
                {"name": "a", "targets": [{"name": "a", "kind": ["lib"]}, {"name": "server", "kind": ["test"]}]},
                {"name": "context-manager-tests", "targets": [{"name": "crash", "kind": ["test"]}, {"name": "rights", "kind": ["test"]}]}
            ]}"#,
        );
        let lanes = lanes.expect("as cargo says it");
        assert_eq!(lanes.cluster, ["--test", "rights"]);
        assert_eq!(lanes.beside, ["--lib", "--bins", "--test", "server", "--test", "crash"]);
    }

    #[test]
    fn what_runs_beside_the_cluster_does_not_use_it() {
        // Modules of the suites' library that go to it, themselves or by others; `unreadable` does too, but is a word of the journal as well.
        let of_the_cluster = [
            "admissions",
            "api_server",
            "background",
            "bucket",
            "cert_manager",
            "cluster",
            "front",
            "helm",
            "operator",
            "plugin",
            "pods",
            "policy",
            "rights",
            "rotation",
            "volumes",
            "webhook",
        ];
        for suite in WITHOUT_CLUSTER {
            let path = paths::repository().join(format!("tests/tests/{suite}.rs"));
            let text = fs::read_to_string(&path).expect(suite);
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
            let words: BTreeSet<&str> = code.flat_map(|line| line.split(|character| !is_word(character))).collect();
            for module in of_the_cluster {
                assert!(!words.contains(module), "{suite} uses {module}");
            }
        }
    }
}
