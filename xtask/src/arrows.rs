//! `cargo xtask check-arrows`: which crate may depend on which (docs/architecture.md). Any other edge is an error.

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{command, paths};

/// Support for suites, which nothing may use but as a dev-dependency.
const SUPPORT: &[&str] = &["tests", "test-crds", "test-qdrant"];

/// The edges that are allowed, as `from -> to`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("memory", &[]),
    ("protocol", &[]),
    ("cli", &["crds", "operator", "protocol"]),
    ("crds", &["protocol"]),
    ("embedded", &["memory"]),
    ("operator", &["crds", "memory", "protocol", "qdrant"]),
    ("qdrant", &["memory"]),
    ("journal", &[]),
    ("sidecar", &["embedded", "journal", "memory", "protocol", "qdrant"]),
    ("example-agent", &["protocol"]),
    ("test-crds", &["crds"]),
    ("test-fuzz", &["journal", "memory", "protocol"]),
    ("test-qdrant", &[]),
    ("tests", &["crds", "embedded", "journal", "memory", "operator", "protocol", "qdrant", "sidecar"]),
    ("bench", &["crds", "memory", "protocol", "tests"]),
    ("xtask", &[]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// Reads the manifests and compares them with the table.
pub fn run() -> Result<ExitCode> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(paths::repository());
    let metadata: Metadata = serde_json::from_str(&command::output(&mut cargo)?)
        .context("`cargo metadata` printed something else than JSON")?;
    let wrong = wrong_edges(&metadata);
    for edge in &wrong {
        eprintln!("error: the dependency {edge} is not one of docs/architecture.md");
    }
    println!("arrows: {} crates checked", metadata.packages.len());
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wrong_edges(metadata: &Metadata) -> BTreeSet<String> {
    let mut wrong = BTreeSet::new();
    for package in &metadata.packages {
        let from = short(&package.name);
        let allowed = ALLOWED.iter().find(|(name, _)| *name == from).map(|(_, to)| *to);
        if allowed.is_none() {
            wrong.insert(format!("{from} -> ? (the crate is not in the table)"));
        }
        for dependency in package.dependencies.iter().filter(|dependency| dependency.path.is_some()) {
            let to = short(&dependency.name);
            let test_support = SUPPORT.contains(&to) && dependency.kind.as_deref() == Some("dev");
            if !test_support && !allowed.unwrap_or_default().contains(&to) {
                wrong.insert(format!("{from} -> {to}"));
            }
        }
    }
    wrong
}

fn short(name: &str) -> &str {
    name.strip_prefix("context-manager-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, to: &str, kind: Option<&str>) -> Metadata {
        let dependency = Dependency { name: to.to_owned(), kind: kind.map(str::to_owned), path: Some("/x".to_owned()) };
        Metadata { packages: vec![Package { name: name.to_owned(), dependencies: vec![dependency] }] }
    }

    #[test]
    fn the_workspace_keeps_to_the_table() {
        assert_eq!(run().expect("cargo tells the packages"), ExitCode::SUCCESS);
    }

    #[test]
    fn only_the_edges_of_the_table_are_allowed() {
        let wrong = |from, to, kind| wrong_edges(&package(from, to, kind)).into_iter().collect::<Vec<_>>();
        assert!(wrong("context-manager-crds", "context-manager-protocol", None).is_empty());
        assert!(wrong("context-manager-sidecar", "context-manager-tests", Some("dev")).is_empty());
        assert_eq!(wrong("context-manager-memory", "context-manager-protocol", None), ["memory -> protocol"]);
        assert_eq!(wrong("context-manager-operator", "context-manager-embedded", None), ["operator -> embedded"]);
        assert_eq!(wrong("context-manager-sidecar", "context-manager-tests", None), ["sidecar -> tests"]);
        assert_eq!(wrong("new", "context-manager-memory", None).len(), 2);
    }
}
