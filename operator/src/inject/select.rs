//! Chooses the `ContextManager` of a pod, and the containers that get access to its memory.

use context_manager_protocol::names;

use super::{
    Decision, Denial, NamespaceFacts, OnMissing, Origin, Reason, Resource, Settings,
    options::Options,
    pod::{List, Pod},
    unsuitable,
};

/// The resource that pod or namespace names, or the only one there is.
pub(super) fn select<'a>(
    pod: Pod<'_>,
    namespace: &NamespaceFacts,
    resources: &'a [Resource],
    settings: &Settings,
    origin: Origin,
) -> Result<&'a Resource, Decision> {
    let wanted = pod.annotation(names::NAME).or_else(|| namespace.labels.get(names::NAME).map(String::as_str));
    let (reason, message) = match (wanted, resources) {
        (Some(name), _) => match resources.iter().find(|resource| resource.name == name) {
            Some(resource) => return Ok(resource),
            None if resources.is_empty() => (Reason::NoResource, none_message(namespace)),
            None => (
                Reason::UnknownResource,
                format!(
                    "namespace {:?} has no ContextManager {name:?}; there is {}",
                    namespace.name,
                    candidates(resources)
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
    Err(missing(resources, settings, origin, reason, message))
}

fn missing(resources: &[Resource], settings: &Settings, origin: Origin, reason: Reason, message: String) -> Decision {
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
fn candidates(resources: &[Resource]) -> String {
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
    if resource.containers.is_empty() {
        return Ok(main().collect());
    }
    let chosen: Vec<_> = main().filter(|name| resource.containers.contains(name)).collect();
    if !chosen.is_empty() {
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
