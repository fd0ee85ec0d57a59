//! The truth table of opting in: annotation of the pod, then label of the pod, then label of the namespace; the first
//! that is there decides alone. `docs/injection.md` shows the same table to users.

use context_manager_protocol::names;

use super::{Denial, NamespaceFacts, Origin, Reason, Skip, pod::Pod};

/// The annotation of a static pod's image in the API; the kubelet runs its own copy, whatever the API says.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// What pod and namespace say about injection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OptIn {
    Asked(Origin),
    Not(Skip),
    Invalid(Denial),
}

pub(super) fn opt_in(pod: Pod<'_>, namespace: &NamespaceFacts) -> OptIn {
    if pod.annotation(MIRROR).is_some() {
        return quiet(Reason::MirrorPod);
    }
    let on_pod = pod
        .annotation(names::INJECT)
        .map(|value| ("annotation", value))
        .or_else(|| pod.label(names::INJECT).map(|value| ("label", value)));
    match (on_pod, namespace.labels.get(names::INJECT).map(String::as_str)) {
        (Some((_, "true")), _) => OptIn::Asked(Origin::Pod),
        (Some((_, "false")), _) => quiet(Reason::OptedOutByPod),
        (Some((kind, value)), _) => OptIn::Invalid(Denial {
            reason: Reason::InvalidInjectValue,
            message: format!("the pod's {kind} {} is {value:?}; write \"true\" or \"false\"", names::INJECT),
        }),
        (None, Some("true")) => OptIn::Asked(Origin::Namespace),
        (None, Some("false")) => quiet(Reason::OptedOutByNamespace),
        (None, Some(value)) => OptIn::Not(Skip {
            reason: Reason::InvalidNamespaceValue,
            warning: Some(format!(
                "no sidecar injected: the label {} of namespace {:?} is {value:?}; write \"true\" or \"false\"",
                names::INJECT,
                namespace.name
            )),
        }),
        (None, None) => quiet(Reason::NotRequested),
    }
}

const fn quiet(reason: Reason) -> OptIn {
    OptIn::Not(Skip { reason, warning: None })
}
