//! Chooses the `ContextManager` of a pod, and the containers that get access to its memory.

use context_manager_protocol::names;
use serde_json::Value;

use super::{
    Decision, Denial, NamespaceFacts, OnMissing, Origin, Reason, Resource, Settings,
    options::{MOST_CONTAINERS, Options},
    pod::{List, Pod},
    unsuitable,
};

/// The resource that pod or namespace names, or the only one of the namespace.
pub(super) fn select<'a>(
    pod: Pod<'_>,
    namespace: &NamespaceFacts,
    resources: &'a [Resource],
    settings: &Settings,
    origin: Origin,
) -> Result<&'a Resource, Decision> {
    let wanted = pod.annotation(names::NAME).or_else(|| namespace.labels.get(names::NAME).map(String::as_str));
    let here: Vec<&Resource> = resources.iter().filter(|resource| resource.namespace == namespace.name).collect();
    if let Some((wanted, other)) = wanted.and_then(|wanted| Some((wanted, elsewhere(wanted, namespace)?))) {
        return granted(other, namespace, resources).ok_or_else(|| {
            missing(&here, settings, origin, Reason::NotGranted, not_granted_message(wanted, namespace))
        });
    }
    let (reason, message) = match (wanted.map(|wanted| own(wanted, namespace)), here.as_slice()) {
        (Some(name), _) => match here.iter().find(|resource| resource.name == name) {
            Some(resource) => return Ok(resource),
            None if here.is_empty() => (Reason::NoResource, none_message(namespace)),
            None => (
                Reason::UnknownResource,
                format!(
                    "namespace {:?} has no ContextManager {name:?}; there is {}",
                    namespace.name,
                    candidates(&here)
                ),
            ),
        },
        (None, [only]) => return Ok(only),
        (None, []) => (Reason::NoResource, none_message(namespace)),
        (None, several) => (
            Reason::AmbiguousResource,
            format!(
                "namespace {:?} has several ContextManagers; choose {} with the annotation {}",
                namespace.name,
                candidates(several),
                names::NAME
            ),
        ),
    };
    Err(missing(&here, settings, origin, reason, message))
}

/// The namespace of the resource that a pod names, if it is another one than its own.
#[must_use]
pub fn foreign<'a>(pod: &'a Value, namespace: &str) -> Option<&'a str> {
    let (other, _) = Pod::new(pod).annotation(names::NAME)?.split_once('/')?;
    (other != namespace).then_some(other)
}

/// Namespace and name of what a word means in another namespace.
fn elsewhere<'w>(wanted: &'w str, namespace: &NamespaceFacts) -> Option<(&'w str, &'w str)> {
    wanted.split_once('/').filter(|(other, _)| *other != namespace.name)
}

/// What a word means in the pod's own namespace, which may be named too.
fn own<'w>(wanted: &'w str, namespace: &NamespaceFacts) -> &'w str {
    wanted.strip_prefix(namespace.name.as_str()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(wanted)
}

/// The resource of another namespace, if it is there and says so.
fn granted<'a>(
    (other, name): (&str, &str),
    namespace: &NamespaceFacts,
    resources: &'a [Resource],
) -> Option<&'a Resource> {
    let named = |resource: &&Resource| resource.namespace == other && resource.name == name;
    resources.iter().find(named).filter(|resource| resource.serves(&namespace.name))
}

/// The same whether there is such a resource or not: who may not use it learns nothing of it.
fn not_granted_message(wanted: &str, namespace: &NamespaceFacts) -> String {
    format!(
        "namespace {:?} may not use a ContextManager {wanted:?}; if there is one, its spec.allowedNamespaces must list {:?}, or name one \
         of this namespace by the annotation {}",
        namespace.name,
        namespace.name,
        names::NAME
    )
}

fn missing(resources: &[&Resource], settings: &Settings, origin: Origin, reason: Reason, message: String) -> Decision {
    let strict = settings.on_missing == OnMissing::Deny
        || resources.iter().any(|resource| resource.on_missing == OnMissing::Deny);
    match origin {
        Origin::Namespace if strict => Decision::Deny(Denial { reason, message }),
        Origin::Namespace | Origin::Pod => unsuitable(origin, reason, message),
    }
}

fn none_message(namespace: &NamespaceFacts) -> String {
    format!(
        "namespace {:?} has no ContextManager; apply one there, or set {}: \"false\" on the pod",
        namespace.name,
        names::INJECT
    )
}

/// The names in order, as in `"a", "b" or "c"`, so that the message does not depend on the order of the list.
fn candidates(resources: &[&Resource]) -> String {
    let mut quoted: Vec<_> = resources.iter().map(|resource| format!("{:?}", resource.name)).collect();
    quoted.sort();
    listed(&quoted)
}

fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Names of the containers that get access. Init containers run before the agent and seldom need it, so they get it
/// only when the pod's annotation names them.
pub(super) fn containers(
    pod: Pod<'_>,
    options: &Options,
    resource: &Resource,
    origin: Origin,
) -> Result<Vec<String>, Decision> {
    let main = || pod.others().filter(|container| container.list == List::Main).map(|found| found.name.to_owned());
    if let Some(wanted) = &options.containers {
        return match wanted.iter().find(|name| pod.others().all(|container| container.name != **name)) {
            None => Ok(wanted.clone()),
            Some(name) => Err(Decision::Deny(Denial {
                reason: Reason::UnknownContainer,
                message: format!(
                    "the annotation {} names container {name:?}, which the pod does not have; there is {}",
                    names::CONTAINERS,
                    listed(&pod.others().map(|container| format!("{:?}", container.name)).collect::<Vec<_>>())
                ),
            })),
        };
    }
    let is_meant = |name: &String| resource.containers.is_empty() || resource.containers.contains(name);
    let chosen: Vec<_> = main().filter(is_meant).take(MOST_CONTAINERS + 1).collect();
    if chosen.len() > MOST_CONTAINERS {
        let message = format!(
            "more than {MOST_CONTAINERS} containers of the pod would get access; name those that need it with the annotation {}",
            names::CONTAINERS
        );
        return Err(unsuitable(origin, Reason::TooManyContainers, message));
    }
    if !chosen.is_empty() || resource.containers.is_empty() {
        return Ok(chosen);
    }
    let reason = Reason::NoMatchingContainer;
    let message = format!(
        "the pod has none of the containers in spec.injection.containers of ContextManager {:?} ({}); choose others \
         with the annotation {}",
        resource.name,
        resource.containers.join(", "),
        names::CONTAINERS
    );
    Err(unsuitable(origin, reason, message))
}
