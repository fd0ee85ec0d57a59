//! Upgrades for people.

use std::fmt::Write as _;

use context_manager_operator::upgrade::Standing;

use super::plan::{Line, State, Step, Upgrade};
use crate::table::table;

/// A line for each resource, and below them one for each pod that is outdated.
pub(super) fn page(upgrades: &[Upgrade]) -> String {
    if upgrades.is_empty() {
        return String::new();
    }
    let row = |upgrade: &Upgrade| {
        let Upgrade { namespace, name, image, configured, strategy, state, outdated, pods, .. } = upgrade;
        let strategy =
            if strategy == configured { format!("{strategy:?}") } else { format!("{strategy:?} (this once)") };
        let counts = [pods.len().to_string(), outdated.to_string()];
        let [pods, outdated] = counts;
        [namespace.clone(), name.clone(), strategy, image.clone(), pods, outdated, words(*state).to_owned()]
    };
    let heading = ["NAMESPACE", "NAME", "STRATEGY", "IMAGE", "PODS", "OUTDATED", "STATE"];
    let mut text = table(heading, &upgrades.iter().map(row).collect::<Vec<_>>());
    let mut rows = Vec::new();
    for Upgrade { namespace, name, pods, .. } in upgrades {
        for Line { name: pod, image, standing, step, .. } in pods.iter().filter(|pod| pod.standing != Standing::Current)
        {
            let differs = match standing {
                Standing::Current | Standing::OtherImage => "image",
                Standing::OtherSettings => "more than the image",
            };
            rows.push([
                format!("{namespace}/{name}"),
                pod.clone(),
                image.clone(),
                differs.to_owned(),
                what(*step).to_owned(),
            ]);
        }
    }
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(["CONTEXTMANAGER", "OUTDATED-POD", "IMAGE", "DIFFERS-IN", "WHAT-HAPPENS"], &rows));
    }
    for Upgrade { namespace, name, message, state, .. } in upgrades {
        if let Some(message) = message.as_ref().filter(|_| *state != State::UpToDate) {
            let _ = writeln!(text, "\n{namespace}/{name}: {message}");
        }
    }
    text
}

const fn words(state: State) -> &'static str {
    match state {
        State::UpToDate => "up to date",
        State::Upgrading => "the operator upgrades them",
        State::NotRequested => "nobody has asked yet",
        State::Requested => "requested",
        State::NoStrategy => "choose a --strategy, or recreate the pods",
        State::Suspended => "suspended; set spec.suspend: false first",
        State::HeldUp => "pods may not be changed now; see below",
        State::Stopped => "stopped",
        State::NeedNewPods => "delete the pods yourself",
    }
}

const fn what(step: Step) -> &'static str {
    match step {
        Step::None => "nothing",
        Step::Replace => "its sidecar alone is restarted with the new image",
        Step::Evict => "it is evicted, and its controller makes another one",
        Step::Remain => "it stays as it is until it is made anew",
        Step::TakenBack => "the new image failed in it; delete it to try again",
    }
}
