//! `explain`: what the webhook decides about a pod, and why, by its own code.

mod words;

use std::{collections::BTreeMap, path::PathBuf};

use context_manager_crds::context_manager::sidecar::Mode;
use context_manager_operator::inject::{Decision, Denial, Injection, Skip};
use context_manager_protocol::names;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::{
    Api,
    api::DynamicObject,
    core::{ApiResource, NamespaceResourceScope},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    answer::{Answer, Exit, Health, Output},
    cluster::{Cluster, call},
    error::Error,
    facts::{Facts, SettingsArgs, image_known},
    manifest,
    operator::{self, Asked},
    workload::{self, Subject},
};

/// Arguments of `explain`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What to explain: `pod/NAME`, `deployment/NAME` and the like; a name alone is a pod's
    #[arg(required_unless_present = "file", value_name = "KIND/NAME", num_args = 1..=2)]
    target: Vec<String>,
    /// Explain the pods and workloads of this file instead; `-` is the standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "target")]
    file: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Outcome {
    /// It gets a sidecar.
    Injected,
    /// It is admitted as it is.
    Plain,
    /// It is refused.
    Refused,
}

/// How a pod that exists compares with what it would get today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum State {
    /// It has the sidecar it would get.
    UpToDate,
    /// It has a sidecar, and would get another one.
    Outdated,
    /// It has none, and would get one.
    Missing,
    /// It has one, and would get none.
    Unexpected,
    /// It has none, and would get none.
    Plain,
}

/// The ports that a sidecar listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ports {
    pub(crate) protocol: u16,
    pub(crate) admin: u16,
}

/// The answer about one pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) object: String,
    pub(crate) namespace: String,
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_manager: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// How the sidecar is injected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<Mode>,
    pub(crate) containers: Vec<String>,
    /// The ports that the sidecar gets in this pod, if it listens on any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<Ports>,
    pub(crate) warnings: Vec<String>,
    /// How the pod that exists compares with that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<State>,
    pub(crate) webhook: Asked,
}

/// Explains.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let (objects, live) = match &args.file {
        Some(file) => (manifest::read(file)?, false),
        None => (vec![fetch(cluster, &args.target).await?], true),
    };
    let registrations = operator::registrations(cluster).await;
    // Namespaces are read once, however many of the objects are in them.
    let mut known: BTreeMap<String, Facts> = BTreeMap::new();
    let (mut all, mut notes) = (Vec::new(), Vec::new());
    for object in &objects {
        let Some(subject) = workload::subject(object) else {
            notes.push(format!("{} makes no pods", title(object)));
            continue;
        };
        let namespace = subject.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
        if !known.contains_key(&namespace) {
            known.insert(namespace.clone(), Facts::fetch(cluster, &namespace, &args.settings).await);
        }
        let facts = &known[&namespace];
        let asked = match &registrations {
            Err(error) => Asked::Unknown { why: error.to_string() },
            Ok(_) if facts.namespace.labels.is_empty() && !facts.notes.is_empty() => {
                Asked::Unknown { why: "the namespace's labels are not known".to_owned() }
            }
            Ok(registrations) => {
                operator::asked(facts.deciding_registrations(&subject, registrations), &facts.namespace)
            }
        };
        all.push(explain(&subject, facts, asked, live && !subject.is_template())?);
        notes.extend(facts.notes.iter().filter(|note| !notes.contains(note)).cloned().collect::<Vec<_>>());
    }
    if all.is_empty() {
        return Err(Error::Usage("nothing of it makes pods; name a pod, or a workload with a pod template".to_owned()));
    }
    let exit = Exit::unless(Health::all(all.iter().map(Explanation::is_well)));
    let text = if args.file.is_none() {
        output.write(&all[0], words::table)?
    } else {
        output.write(&all, |all| all.iter().map(words::table).collect::<Vec<_>>().join("\n"))?
    };
    Ok(Answer::new(text, exit).noting(notes))
}

fn explain(subject: &Subject, facts: &Facts, asked: Asked, live: bool) -> Result<Explanation, Error> {
    let decision = facts.decide(subject)?;
    let reason = decision.reason();
    let mut explanation = Explanation {
        object: subject.title(),
        namespace: facts.namespace.name.clone(),
        outcome: Outcome::Plain,
        reason: reason.to_string(),
        message: words::meaning(reason).to_owned(),
        remedy: words::remedy(reason).map(str::to_owned),
        context_manager: None,
        agent: None,
        image: None,
        mode: None,
        containers: Vec::new(),
        ports: None,
        warnings: Vec::new(),
        state: None,
        webhook: asked,
    };
    if live {
        explanation.state = state(&subject.pod, &decision);
    }
    match decision {
        Decision::Inject(injection) => explanation.inject(*injection),
        Decision::Skip(Skip { warning, .. }) => {
            if let Some(warning) = warning {
                explanation.message.clone_from(&warning);
                explanation.warnings.push(warning);
            }
        }
        Decision::Deny(Denial { message, .. }) => {
            explanation.outcome = Outcome::Refused;
            explanation.message = message;
        }
    }
    if let (Asked::No { why }, Outcome::Injected | Outcome::Refused) = (&explanation.webhook, explanation.outcome) {
        explanation.outcome = Outcome::Plain;
        "NotAsked".clone_into(&mut explanation.reason);
        explanation.message.clone_from(why);
        explanation.remedy = Some("run the pod in another namespace, or look at `kubectl context check`".to_owned());
    }
    Ok(explanation)
}

impl Explanation {
    fn inject(&mut self, injection: Injection) {
        let resource = injection.resource_name();
        let is_known = image_known(&injection);
        let Injection { agent, mode, sidecar, containers, ports, warnings, .. } = injection;
        let image = sidecar.get("image").and_then(Value::as_str).map(str::to_owned);
        self.outcome = Outcome::Injected;
        self.message = format!("the pod gets a sidecar of ContextManager {resource:?}");
        self.context_manager = Some(resource);
        self.agent = Some(agent);
        self.image = image.filter(|_| is_known);
        self.mode = Some(mode);
        self.containers = containers;
        self.ports = ports.map(|ports| Ports { protocol: ports.protocol, admin: ports.admin });
        self.warnings = warnings;
    }

    /// A refusal, and a pod that is other than it would be made today, are not well; a pod without a sidecar that asks for none is.
    fn is_well(&self) -> bool {
        let as_decided = match self.state {
            None | Some(State::UpToDate | State::Plain) => true,
            Some(State::Outdated | State::Missing | State::Unexpected) => false,
        };
        as_decided
            && self.outcome != Outcome::Refused
            && (self.outcome == Outcome::Injected || self.warnings.is_empty())
            && self.reason != "NotAsked"
    }
}

/// Compares the pod that exists with what it would get. Without the image that it would get nobody can say whether it has it.
fn state(pod: &Value, decision: &Decision) -> Option<State> {
    let annotation =
        |name: &str| pod.pointer("/metadata/annotations").and_then(|all| all.get(name)).and_then(Value::as_str);
    let has = annotation(names::INJECTED_HASH).is_some();
    Some(match decision {
        Decision::Inject(injection) if has && !image_known(injection) => return None,
        Decision::Inject(injection) if has && annotation(names::INJECTED_TEMPLATE) == Some(&injection.template) => {
            State::UpToDate
        }
        Decision::Inject(_) if has => State::Outdated,
        Decision::Inject(_) => State::Missing,
        Decision::Skip(_) | Decision::Deny(_) if has => State::Unexpected,
        Decision::Skip(_) | Decision::Deny(_) => State::Plain,
    })
}

async fn fetch(cluster: &Cluster, target: &[String]) -> Result<Value, Error> {
    let (kind, name) = match target {
        [one] => one.split_once('/').unwrap_or(("pod", one)),
        [kind, name] => (kind.as_str(), name.as_str()),
        _ => return Err(Error::Usage("name one object, such as pod/NAME or deployment/NAME".to_owned())),
    };
    if name.is_empty() || name.contains('/') {
        return Err(Error::Usage(format!("{name:?} is no name of an object; write pod/NAME or deployment/NAME")));
    }
    let (resource, right) = kind_of(&kind.to_lowercase())?;
    let api = Api::<DynamicObject>::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
    let what = format!("{} {name:?} of namespace {:?}", resource.kind, cluster.namespace);
    let found = call(&format!("read {what}"), &format!("get {right}"), api.get_opt(name)).await?;
    let found = found.ok_or_else(|| Error::Missing {
        what,
        remedy: format!("`kubectl get {} -A` lists those that do", resource.plural),
    })?;
    let mut value = serde_json::to_value(found).map_err(|error| Error::Write { what: error.to_string() })?;
    value["kind"] = resource.kind.into();
    value["apiVersion"] = resource.api_version.into();
    Ok(value)
}

fn kind_of(word: &str) -> Result<(ApiResource, String), Error> {
    fn of<K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>>() -> (ApiResource, String) {
        let resource = ApiResource::erase::<K>(&());
        let right = if resource.group.is_empty() {
            resource.plural.clone()
        } else {
            format!("{}.{}", resource.plural, resource.group)
        };
        (resource, right)
    }
    match word {
        "pod" | "pods" | "po" => Ok(of::<Pod>()),
        "deployment" | "deployments" | "deploy" => Ok(of::<Deployment>()),
        "replicaset" | "replicasets" | "rs" => Ok(of::<ReplicaSet>()),
        "statefulset" | "statefulsets" | "sts" => Ok(of::<StatefulSet>()),
        "daemonset" | "daemonsets" | "ds" => Ok(of::<DaemonSet>()),
        "job" | "jobs" => Ok(of::<Job>()),
        "cronjob" | "cronjobs" | "cj" => Ok(of::<CronJob>()),
        other => Err(Error::Usage(format!(
            "{other:?} is no kind that makes pods; use pod, deployment, statefulset, daemonset, replicaset, job or cronjob, or \
             pass another one's manifest by --file"
        ))),
    }
}

/// `kind/name` of any object.
pub(crate) fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}", text("/kind").to_lowercase(), text("/metadata/name"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        let mut facts =
            Facts::offline("team", &SettingsArgs { sidecar_image: Some("sidecar:1".to_owned()), on_missing: None });
        let resource = json!({"apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager", "metadata": {"name": "memory", "namespace": "team"}, "spec": {}});
        facts.add(&serde_json::from_value(resource).unwrap());
        facts
    }

    fn yes() -> Asked {
        Asked::Yes { configuration: "context-manager".to_owned() }
    }

    fn pod(annotation: Option<&str>) -> Value {
        let annotations = annotation.map(|value| json!({names::INJECT: value}));
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": annotations},
            "spec": {"containers": [{"name": "agent"}]}})
    }

    fn explained(pod: &Value, asked: Asked) -> Explanation {
        explain(&workload::subject(pod).unwrap(), &facts(), asked, true).unwrap()
    }

    #[test]
    fn an_explanation_says_what_a_pod_gets_and_whether_it_has_it() {
        let asking = pod(Some("true"));
        let explanation = explained(&asking, yes());
        assert_eq!((explanation.outcome, explanation.state), (Outcome::Injected, Some(State::Missing)));
        assert_eq!((explanation.agent.as_deref(), explanation.image.as_deref()), (Some("a"), Some("sidecar:1")));
        assert!(!explanation.is_well());
        let subject = workload::subject(&asking).unwrap();
        let Decision::Inject(injection) = facts().decide(&subject).unwrap() else { unreachable!() };
        let mut injected =
            subject.patched(&asking, &context_manager_operator::inject::patch(&asking, &injection)).unwrap();
        let explanation = explained(&injected, yes());
        assert_eq!(explanation.state, Some(State::UpToDate));
        assert!(explanation.is_well());
        injected["metadata"]["annotations"][names::INJECTED_TEMPLATE] = json!("older");
        assert_eq!(explained(&injected, yes()).state, Some(State::Outdated));
    }

    #[test]
    fn a_refusal_is_not_well_and_an_opt_out_is() {
        let refused = explained(&pod(Some("yes")), yes());
        assert_eq!(
            (refused.outcome, refused.reason.as_str(), refused.is_well()),
            (Outcome::Refused, "InvalidInjectValue", false)
        );
        let out = explained(&pod(Some("false")), yes());
        assert_eq!((out.outcome, out.reason.as_str(), out.is_well()), (Outcome::Plain, "OptedOutByPod", true));
        assert!(explained(&pod(None), yes()).remedy.is_some_and(|remedy| remedy.contains(names::INJECT)));
    }

    #[test]
    fn a_webhook_that_is_not_asked_changes_nothing() {
        let explanation = explained(&pod(Some("true")), Asked::No { why: "left out".to_owned() });
        assert_eq!((explanation.outcome, explanation.reason.as_str()), (Outcome::Plain, "NotAsked"));
        assert!(!explanation.is_well());
    }
}
