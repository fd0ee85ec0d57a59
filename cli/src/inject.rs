//! `inject`: pods and workloads of files with their sidecars, by the webhook's own code.
//!
//! All other objects are written as they are, so that the output can stand in for the input. If one pod is refused nothing is written, so that
//! a pipe into `kubectl apply` applies all or nothing.

#![expect(clippy::doc_markdown, reason = "texts of arguments become help, which is shown as plain text")]

use std::{collections::BTreeMap, path::PathBuf};

use context_manager_operator::inject::{Decision, Denial, Skip, patch};
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::{
    answer::{Answer, Exit, Output, yaml},
    args::Connection,
    cluster::Cluster,
    error::Error,
    facts::{Facts, SettingsArgs, image_known},
    manifest,
    workload::{self, Subject},
};

/// Arguments of `inject`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Files with pods, workloads, and if you like their Namespace and ContextManager; `-` is the standard input
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Ask no cluster: what is not in the files does not exist
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What the files say of namespaces and resources.
#[derive(Default)]
struct Local {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    resources: Vec<DynamicObject>,
}

/// Injects.
pub(crate) async fn run(connection: &Connection, args: &Args, output: Output) -> Result<Answer, Error> {
    let cluster = if args.offline { None } else { Some(Cluster::connect(connection).await?) };
    let home = cluster.as_ref().map(|cluster| cluster.namespace.clone());
    let home = home.or_else(|| connection.namespace.clone()).unwrap_or_else(|| "default".to_owned());
    let mut objects = Vec::new();
    for file in &args.files {
        objects.extend(manifest::read(file)?);
    }
    let local = Local::read(&objects, &home)?;
    let mut known: BTreeMap<String, Facts> = BTreeMap::new();
    let (mut written, mut notes, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for object in objects {
        let Some(subject) = workload::subject(&object) else {
            written.push(object);
            continue;
        };
        let namespace = subject.namespace.clone().unwrap_or_else(|| home.clone());
        if !known.contains_key(&namespace) {
            let facts = local.facts(cluster.as_ref(), &namespace, &args.settings).await;
            notes.extend(facts.notes.clone());
            known.insert(namespace.clone(), facts);
        }
        match inject(&object, &subject, &known[&namespace])? {
            Done::Written(object, said) => {
                notes.extend(said.into_iter().map(|note| format!("{}: {note}", subject.title())));
                written.push(object);
            }
            Done::Refused(message) => refused.push(format!("{}: refused: {message}", subject.title())),
        }
    }
    if !refused.is_empty() {
        notes.extend(refused);
        return Ok(Answer::new("", Exit::Problems).noting(notes));
    }
    Ok(Answer::new(text(&written, output)?, Exit::Fine).noting(notes))
}

/// What became of a pod or workload.
enum Done {
    Written(Value, Vec<String>),
    Refused(String),
}

fn inject(object: &Value, subject: &Subject, facts: &Facts) -> Result<Done, Error> {
    match facts.decide(subject)? {
        Decision::Inject(injection) => {
            if !image_known(&injection) {
                return Err(Error::Refused(
                    "the sidecar's image is not known: pass --sidecar-image, or name one in spec.sidecar.image of the ContextManager".to_owned(),
                ));
            }
            let patched = subject.patched(object, &patch(&subject.pod, &injection));
            let patched = patched
                .map_err(|error| Error::Refused(format!("{}: the patch does not fit: {error}", subject.title())))?;
            let mut said = vec![format!("sidecar of ContextManager {}, agent {}", injection.resource, injection.agent)];
            said.extend(injection.warnings.iter().map(|warning| format!("warning: {warning}")));
            Ok(Done::Written(patched, said))
        }
        Decision::Skip(Skip { reason, warning }) => {
            let said =
                warning.map_or_else(|| format!("no sidecar ({reason})"), |warning| format!("warning: {warning}"));
            Ok(Done::Written(object.clone(), vec![said]))
        }
        Decision::Deny(Denial { reason, message }) => Ok(Done::Refused(format!("{message} ({reason})"))),
    }
}

impl Local {
    fn read(objects: &[Value], home: &str) -> Result<Self, Error> {
        let mut local = Self::default();
        for object in objects {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
            if text("/kind") == Some("Namespace") && text("/apiVersion") == Some("v1") {
                let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
                let labels =
                    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
                local.namespaces.insert(text("/metadata/name").unwrap_or_default().to_owned(), labels);
            }
            if let Some(resource) = manifest::resource(object) {
                let mut resource = resource.map_err(|what| Error::Input { file: "the input".to_owned(), what })?;
                resource.metadata.namespace.get_or_insert_with(|| home.to_owned());
                local.resources.push(resource);
            }
        }
        Ok(local)
    }

    /// The cluster's facts with the files' put over them.
    async fn facts(&self, cluster: Option<&Cluster>, namespace: &str, settings: &SettingsArgs) -> Facts {
        let mut facts = match cluster {
            Some(cluster) => Facts::fetch(cluster, namespace, settings).await,
            None => Facts::offline(namespace, settings),
        };
        if let Some(labels) = self.namespaces.get(namespace) {
            facts.namespace.labels.clone_from(labels);
            facts.notes.retain(|note| !note.contains("labels of namespace"));
        }
        // Those of other namespaces too: they may allow this one.
        for resource in &self.resources {
            facts.add(resource);
        }
        facts
    }
}

/// YAML documents unless JSON is asked for; a table of objects would be none of use.
fn text(objects: &[Value], output: Output) -> Result<String, Error> {
    match (output, objects) {
        (Output::Json, [one]) => Output::Json.write(one, |_| String::new()),
        (Output::Json, all) => {
            Output::Json.write(&json!({"apiVersion": "v1", "kind": "List", "items": all}), |_| String::new())
        }
        (Output::Table | Output::Yaml, all) => Ok(all.iter().map(yaml).collect::<Result<Vec<_>, _>>()?.join("---\n")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use context_manager_protocol::names;

    use super::*;

    const INPUT: &str = r#"
apiVersion: contextmanager.dev/v1alpha1
kind: ContextManager
metadata: {name: memory}
spec: {}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain}
data: {word: "true"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: support}
spec:
  template:
    metadata: {labels: {app: support, contextmanager.dev/inject: "true"}}
    spec: {containers: [{name: agent, image: "agent:1"}]}
"#;

    async fn injected(input: &str, image: Option<&str>) -> Result<Answer, Error> {
        let folder = std::env::temp_dir().join(format!("kubectl-context-{}", uuid::Uuid::new_v4()));
        std::fs::write(&folder, input).unwrap();
        let settings = SettingsArgs { sidecar_image: image.map(str::to_owned), on_missing: None };
        let args = Args { files: vec![folder.clone()], offline: true, settings };
        let answer = run(&Connection::default(), &args, Output::Table).await;
        std::fs::remove_file(folder).unwrap();
        answer
    }

    #[tokio::test]
    async fn a_file_is_injected_without_a_cluster_and_the_rest_stays_as_it_is() {
        let answer = injected(INPUT, Some("sidecar:1")).await.unwrap();
        assert_eq!(answer.exit, Exit::Fine);
        let (before, after) = (manifest::parse(INPUT).unwrap(), manifest::parse(&answer.text).unwrap());
        assert_eq!(before[..2], after[..2]);
        let template = &after[2]["spec"]["template"];
        assert_eq!(template["spec"]["initContainers"][0]["image"], "sidecar:1");
        assert_eq!(template["metadata"]["labels"]["contextmanager.dev/context-manager"], "memory");
        assert_eq!(answer.notes, ["deployment/support: sidecar of ContextManager memory, agent support"]);
        // What is written can be read again, and then nothing more is done.
        assert_eq!(injected(&answer.text, Some("sidecar:1")).await.unwrap().text, answer.text);
    }

    #[tokio::test]
    async fn one_refused_pod_leaves_no_output_at_all() {
        let wrong = INPUT.replace("contextmanager.dev/inject: \"true\"", "contextmanager.dev/inject: \"yes\"");
        let answer = injected(&wrong, Some("sidecar:1")).await.unwrap();
        assert_eq!((answer.exit, answer.text.as_str()), (Exit::Problems, ""));
        assert!(answer.notes[0].contains("InvalidInjectValue"), "{:?}", answer.notes);
    }

    #[tokio::test]
    async fn a_resource_of_another_namespace_serves_those_that_it_allows() {
        let named = "metadata: {annotations: {contextmanager.dev/name: platform/memory}, labels:";
        let shared = INPUT
            .replace("{name: memory}", "{name: memory, namespace: platform}")
            .replace("spec: {}", "spec: {allowedNamespaces: [team-a]}")
            .replace("{name: support}", "{name: support, namespace: team-a}")
            .replace("metadata: {labels:", named);
        let answer = injected(&shared, Some("sidecar:1")).await.unwrap();
        assert_eq!(answer.notes, ["deployment/support: sidecar of ContextManager memory, agent support"]);
        assert_eq!(answer.exit, Exit::Fine);
        let after = manifest::parse(&answer.text).unwrap();
        assert_eq!(after[2]["spec"]["template"]["metadata"]["labels"][names::INJECTED_FROM], "platform");
        let others = injected(&shared.replace("[team-a]", "[team-b]"), Some("sidecar:1")).await.unwrap();
        assert_eq!((others.exit, others.text.as_str()), (Exit::Problems, ""));
        assert!(others.notes[0].contains("NotGranted"), "{:?}", others.notes);
    }

    #[tokio::test]
    async fn an_image_that_nobody_named_is_asked_for() {
        let error = injected(INPUT, None).await.unwrap_err();
        assert!(error.to_string().contains("--sidecar-image"), "{error}");
    }
}
