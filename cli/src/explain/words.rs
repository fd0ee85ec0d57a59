//! What the reasons mean, for people.

use context_manager_operator::inject::Reason;

use super::{Explanation, Outcome, Ports, State};
use crate::{
    operator::Asked,
    table::{list, pairs},
};

/// What a reason means where the decision itself has no message.
pub(super) const fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::NotRequested => "neither the pod nor its namespace asks for a sidecar",
        Reason::OptedOutByPod => "the pod itself says that it wants none",
        Reason::OptedOutByNamespace => "the namespace says that its pods want none",
        Reason::InvalidNamespaceValue => {
            "the namespace's label is neither \"true\" nor \"false\", and counts as absent"
        }
        Reason::InvalidInjectValue => "the pod's word is neither \"true\" nor \"false\"",
        Reason::MirrorPod => "a static pod's image in the API cannot be changed",
        Reason::NoResource => "the namespace has no ContextManager",
        Reason::AmbiguousResource => "the namespace has several ContextManagers, and none is named",
        Reason::UnknownResource => "the named ContextManager does not exist",
        Reason::NotGranted => "the named ContextManager of another namespace is not there, or does not allow the pod's",
        Reason::OtherClass => "its ContextManager belongs to another operator, whose webhook decides",
        Reason::InvalidAnnotation => "an annotation has a value it cannot have",
        Reason::UnknownContainer => "an annotation names a container that the pod does not have",
        Reason::NoMatchingContainer => "the pod has none of the containers that the ContextManager lists",
        Reason::TooManyContainers => "more containers than any pod has would get access",
        Reason::PortTaken => {
            "a port that the pod demands for the sidecar is used by a container of it, or none is free"
        }
        Reason::VolumeNameTaken => "the name of a volume of the sidecar is used by a volume of the pod",
        Reason::ContainerNameTaken => "the name of the sidecar is used by a container of the pod",
        Reason::ClassicInJob => "a Job's pod never completes beside a sidecar of mode Classic",
        Reason::WindowsPod => "the pod runs on Windows, for which there is no sidecar",
        Reason::PodTooSmall => "the pod's spec.resources have less memory than a sidecar needs",
        Reason::Injected => "the pod gets a sidecar",
    }
}

/// What to do about it, where there is no message that says so.
pub(super) const fn remedy(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::NotRequested => {
            Some("put the label contextmanager.dev/inject: \"true\" on the pod template, or on the namespace")
        }
        Reason::OptedOutByPod => {
            Some("if it wants one: remove contextmanager.dev/inject from the pod template, or set it to \"true\"")
        }
        Reason::OptedOutByNamespace => {
            Some("if it wants one: put contextmanager.dev/inject: \"true\" on the pod template")
        }
        Reason::InvalidNamespaceValue => {
            Some("write \"true\" or \"false\" to the namespace's label contextmanager.dev/inject")
        }
        Reason::NoResource => Some("make a ContextManager in the namespace; `spec: {}` is a whole one"),
        Reason::AmbiguousResource => Some("name one by the annotation contextmanager.dev/name of the pod template"),
        Reason::OtherClass => {
            Some("ask with --operator-namespace (and --release) of the operator with that spec.controllerClassName")
        }
        Reason::InvalidInjectValue
        | Reason::MirrorPod
        | Reason::UnknownResource
        | Reason::NotGranted
        | Reason::InvalidAnnotation
        | Reason::UnknownContainer
        | Reason::NoMatchingContainer
        | Reason::TooManyContainers
        | Reason::PortTaken
        | Reason::VolumeNameTaken
        | Reason::ContainerNameTaken
        | Reason::ClassicInJob
        | Reason::WindowsPod
        | Reason::PodTooSmall
        | Reason::Injected => None,
    }
}

const fn state(state: State) -> &'static str {
    match state {
        State::UpToDate => "has the sidecar it would get today",
        State::Outdated => {
            "has a sidecar, and would get another one today: recreate it, as by `kubectl rollout restart`"
        }
        State::Missing => {
            "has none: it is older than what asks for one, or the webhook was away; recreate it, as by `kubectl rollout restart`"
        }
        State::Unexpected => "has a sidecar, and would get none today",
        State::Plain => "has no sidecar",
    }
}

/// The explanation for people.
pub(super) fn table(explanation: &Explanation) -> String {
    let Explanation {
        object,
        namespace,
        outcome,
        reason,
        message,
        remedy,
        context_manager,
        agent,
        image,
        mode,
        containers,
        ports,
        warnings,
        state: now,
        webhook,
    } = explanation;
    let outcome = match outcome {
        Outcome::Injected => "gets a sidecar",
        Outcome::Plain => "admitted without a sidecar",
        Outcome::Refused => "refused",
    };
    let mut rows = vec![
        ("Object", format!("{object} in namespace {namespace}")),
        ("Outcome", format!("{outcome} ({reason})")),
        ("Why", message.clone()),
    ];
    rows.extend(now.map(|now| ("Now", state(now).to_owned())));
    rows.extend(remedy.clone().map(|remedy| ("Remedy", remedy)));
    if let Some(resource) = context_manager {
        rows.push(("ContextManager", resource.clone()));
        rows.push(("Agent", agent.clone().unwrap_or_default()));
        rows.push(("Image", image.clone().unwrap_or_else(|| "not known; pass --sidecar-image".to_owned())));
        rows.extend(mode.map(|mode| ("Mode", format!("{mode:?}"))));
        rows.push(("Containers", list(containers)));
        let ports = ports.map_or_else(
            || "none: the pod uses the node's network, so there are Unix sockets alone".to_owned(),
            |Ports { protocol, admin }| format!("protocol {protocol}, admin {admin}"),
        );
        rows.push(("Ports", ports));
    }
    rows.extend(warnings.iter().filter(|warning| *warning != message).map(|warning| ("Warning", warning.clone())));
    rows.push((
        "Webhook",
        match webhook {
            Asked::Yes { configuration } => {
                format!("the API server asks it (MutatingWebhookConfiguration {configuration})")
            }
            Asked::No { why } => format!("not asked: {why}"),
            Asked::Unknown { why } => format!("taken as asked; not known, because {why}"),
        },
    ));
    pairs(&rows)
}
