//! The cluster, the images in it, and the operator.

use anyhow::{Context as _, Result, bail};

use super::kube::{Kube, items, text};
use super::{DEFINITION, MARK, RELEASE, SYSTEM, screen};
use crate::cluster::{self, ClusterArgs, Target};
use crate::{command, images};

/// Shows the cluster, and checks that a pod could run there.
pub fn look_at(kube: &Kube) -> Result<()> {
    kube.run(&["version"])?;
    kube.run(&["get", "nodes"])?;
    let nodes = kube.json(&["nodes"])?;
    let nodes = items(&nodes, "/items");
    let ready = nodes.iter().filter(|node| condition(node, "Ready") == Some("True")).count();
    if ready == 0 {
        bail!("the cluster has no node that is ready");
    }
    screen::checked(&format!("a real Kubernetes: {ready} of {} nodes ready", nodes.len()));
    Ok(())
}

/// Builds the images and brings them to the nodes.
pub fn images(kube: &Kube, args: &ClusterArgs) -> Result<()> {
    println!("$ cargo xtask images --load");
    let archives = images::build(args)?;
    if args.cluster == Target::Dev {
        cluster::load_images(&kube.cluster, &archives)?;
        screen::checked(&format!("{} images, built without a container engine, are on every node", archives.len()));
        return Ok(());
    }
    let context = kube.ask(&["config", "current-context"])?;
    let context = context.trim();
    for archive in &archives {
        let file = archive.to_string_lossy();
        let (program, arguments) = if let Some(name) = context.strip_prefix("kind-") {
            ("kind", vec!["load", "image-archive", &file, "--name", name])
        } else if let Some(name) = context.strip_prefix("k3d-") {
            ("k3d", vec!["image", "import", &file, "--cluster", name])
        } else {
            screen::note(&format!(
                "{} must have been pushed from {file}: this cluster pulls its images",
                args.image_prefix
            ));
            continue;
        };
        screen::command(program, &arguments);
        let program = command::find_program(program).with_context(|| format!("{program} is not in PATH"))?;
        screen::output(&command::output(std::process::Command::new(program).args(arguments))?);
    }
    Ok(())
}

/// Installs the chart in a namespace that enforces the strictest Pod Security level.
pub fn operator(kube: &Kube, args: &ClusterArgs) -> Result<()> {
    if !kube.exists("namespace", SYSTEM)? {
        kube.run(&["create", "namespace", SYSTEM])?;
    }
    kube.run(&["label", "namespace", SYSTEM, MARK, "pod-security.kubernetes.io/enforce=restricted"])?;
    let registry = format!("image.registry={}", args.image_prefix.trim_end_matches('/'));
    let mut arguments = vec!["upgrade", "--install", RELEASE, "charts/context-manager", "--namespace", SYSTEM];
    arguments.extend(["--set", &registry, "--wait", "--timeout", "3m", "--hide-notes"]);
    if kube.exists("crd", DEFINITION)? {
        screen::note("the resource's definition is there already, and becomes part of the release");
        arguments.push("--take-ownership");
    }
    let said = kube.helm(&arguments)?;
    if !said.lines().any(|line| line.trim() == "STATUS: deployed") {
        bail!("helm does not say that the release is deployed");
    }
    kube.run(&["-n", SYSTEM, "get", "pods"])?;
    let deployments = kube.json(&["-n", SYSTEM, "deployments"])?;
    for name in ["controller", "webhook"] {
        let full = format!("{RELEASE}-{name}");
        let deployment = items(&deployments, "/items")
            .iter()
            .find(|deployment| text(deployment, "/metadata/name").is_ok_and(|found| found == full))
            .with_context(|| format!("the release has no Deployment {full}"))?;
        let number = |pointer| deployment.pointer(pointer).and_then(serde_json::Value::as_i64).unwrap_or(0);
        let (wanted, ready) = (number("/spec/replicas"), number("/status/readyReplicas"));
        if wanted < 1 || ready < wanted {
            bail!("{ready} of {wanted} pods of {full} are ready");
        }
        screen::checked(&format!("{name}: {ready} of {wanted} pods ready"));
    }
    Ok(())
}

/// The status of a condition of an object.
pub fn condition<'v>(object: &'v serde_json::Value, kind: &str) -> Option<&'v str> {
    let found =
        items(object, "/status/conditions").iter().find(|found| text(found, "/type").is_ok_and(|name| name == kind));
    found.and_then(|found| text(found, "/status").ok())
}
