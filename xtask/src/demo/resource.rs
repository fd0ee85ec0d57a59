//! The one resource that a platform engineer applies, and what the operator makes of it.

use anyhow::{Context as _, Result, bail};

use super::input::{Embedding, Input};
use super::install::condition;
use super::kube::{Change, Kube, text};
use super::{AGENTS, screen, volume};
use crate::cluster::{ClusterArgs, Target};
use crate::paths::{self, Home};

const FILE: &str = "examples/contextmanager.yaml";
/// The children of the resource `memory`.
const CHILDREN: [(&str, &str); 4] = [
    ("secret", "memory-context-keys"),
    ("secret", "memory-context-tls"),
    ("configmap", "memory-context-config"),
    ("persistentvolumeclaim", "memory-context-data"),
];

/// Applies the resource, waits until it is ready, and checks what came of it.
pub fn apply(kube: &Kube, home: &Home, input: &Input, args: &ClusterArgs) -> Result<()> {
    if args.cluster == Target::Dev {
        volume::provide(kube, home)?;
    }
    kube.apply_file(FILE, &embedding(kube, input)?)?;
    kube.run(&["-n", AGENTS, "wait", "--for=condition=Ready", "contextmanager/memory", "--timeout=90s"])?;
    kube.run(&["-n", AGENTS, "get", "contextmanagers"])?;
    kube.run(&["-n", AGENTS, "get", "secrets,configmaps,persistentvolumeclaims"])?;
    check(kube)
}

fn check(kube: &Kube) -> Result<()> {
    let resource = kube.json(&["-n", AGENTS, "contextmanager", "memory"])?;
    if condition(&resource, "Ready") != Some("True") {
        bail!("the resource is not ready any more");
    }
    let (wanted, observed) = (resource.pointer("/metadata/generation"), resource.pointer("/status/observedGeneration"));
    if wanted.is_none() || wanted != observed {
        bail!("the status speaks of generation {observed:?}, but the resource has {wanted:?}");
    }
    let uid = text(&resource, "/metadata/uid")?;
    for (kind, name) in CHILDREN {
        let child =
            kube.json(&["-n", AGENTS, kind, name]).with_context(|| format!("the operator made no {kind} {name}"))?;
        let is_owned =
            child.pointer("/metadata/ownerReferences/0/uid").and_then(serde_json::Value::as_str) == Some(uid);
        // A volume with memories in it outlives the resource, unless spec.reclaimPolicy says otherwise.
        if is_owned == (kind == "persistentvolumeclaim") {
            bail!("{kind} {name} has the wrong owner: {:?}", child.pointer("/metadata/ownerReferences"));
        }
    }
    screen::checked(
        "keys, certificates, the sidecar's configuration and a claim are there; no secret was written by hand",
    );
    Ok(())
}

/// Another embedder than the built-in one: more lines at the end of the file, and a Secret.
fn embedding(kube: &Kube, input: &Input) -> Result<Change> {
    let Some(Embedding { url, model, dimensions, key }) = &input.embedding else {
        return Ok(Change { filter: String::new(), text: None });
    };
    let mut more = format!(
        "  embedding:\n    provider: openAI\n    url: {url:?}\n    model: {model:?}\n    dimensions: {dimensions}\n"
    );
    let file = std::fs::read_to_string(paths::repository().join(FILE))?;
    if let Some(key) = key {
        more.push_str("    apiKeySecretRef: {name: embedding, key: api-key}\n");
        // The namespace comes first, or there is no place for the Secret; the key is not shown.
        let namespace = file.split("\n---\n").next().unwrap_or_default();
        crate::command::output_with_input(kube.cluster.kubectl().args(["apply", "-f", "-"]), namespace)?;
        println!("$ kubectl -n {AGENTS} create secret generic embedding --from-literal=api-key=\"$EMBEDDING_API_KEY\"");
        let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "embedding",
            "namespace": AGENTS}, "stringData": {"api-key": key}});
        crate::command::output_with_input(kube.cluster.kubectl().args(["apply", "-f", "-"]), &secret.to_string())?;
    }
    screen::note("added to the file:");
    screen::output(&more);
    Ok(Change { filter: "cat - <the lines above> <".to_owned(), text: Some(file + &more) })
}
