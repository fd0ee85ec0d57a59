//! What a sidecar of mode Classic cannot do, found before a pod is made: it is an ordinary container, so a pod that should end by
//! itself never does while it runs, and it does not run yet while init containers do.

use context_manager_crds::context_manager::sidecar::Mode;
use context_manager_protocol::names;

use super::{
    Decision, Denial, Origin, Reason, agent,
    options::Options,
    pod::{List, Pod},
    unsuitable,
};

/// A warning, if the pod gets such a sidecar and will miss something. A pod that has its sidecar is what it is.
pub(super) fn check(pod: Pod<'_>, options: &Options, origin: Origin) -> Result<Option<String>, Decision> {
    if options.mode == Mode::Native || pod.injected() {
        return Ok(None);
    }
    if let Some(name) = early_container(pod, options) {
        let message = format!(
            "the annotation {} names init container {name:?}, which ends before a sidecar of mode Classic starts; leave it out, or set \
             {}: \"Native\"",
            names::CONTAINERS,
            names::MODE
        );
        return Err(Decision::Deny(Denial { reason: Reason::InvalidAnnotation, message }));
    }
    if agent::controller(pod).is_some_and(|owner| owner.kind == "Job") {
        let message = format!(
            "a sidecar of mode Classic goes on when the agent has ended, so the Job would never complete; set {}: \"Native\" on the \
             Job's pod template, or {}: \"false\"",
            names::MODE,
            names::INJECT
        );
        return Err(unsuitable(origin, Reason::ClassicInJob, message));
    }
    Ok(pod.runs_to_completion().then(|| {
        format!(
            "the pod's restartPolicy is not Always, and a sidecar of mode Classic goes on when the agent has ended: the pod ends only when \
             it is deleted; set {}: \"Native\" if it is to complete",
            names::MODE
        )
    }))
}

fn early_container<'a>(pod: Pod<'a>, options: &Options) -> Option<&'a str> {
    let chosen = options.containers.as_deref().unwrap_or_default();
    let is_early = |name: &str| chosen.iter().any(|chosen| chosen == name);
    pod.others().find(|container| container.list == List::Init && is_early(container.name)).map(|found| found.name)
}
