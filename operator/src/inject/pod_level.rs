//! What a pod says of its resources as a whole (`spec.resources`). The API server refuses a container whose limit is above the pod's, and
//! containers that together request more than the pod; it gives a pod that has limits alone the requests that its containers had before
//! the sidecar came.

use context_manager_crds::quantity::Amount;
use context_manager_protocol::names;
use serde_json::{Map, Value};

use super::{
    Decision, Denial, Origin, Reason,
    options::{Options, amount, get, set},
    pod::{Container, List, Pod},
    unsuitable,
};

const UNITS: [(&str, &str, &str); 2] = [
    ("cpu", names::SIDECAR_CPU_REQUEST, names::SIDECAR_CPU_LIMIT),
    ("memory", names::SIDECAR_MEMORY_REQUEST, names::SIDECAR_MEMORY_LIMIT),
];

/// Fits what the sidecar asks for into what the pod has. What an annotation demands is refused where it does not fit. All else gives way and
/// loses nothing by it: where the pod has figures of its own, scheduler and kernel go by those.
pub(super) fn fit(pod: Pod<'_>, mut options: Options, origin: Origin) -> Result<Options, Decision> {
    let (Some(whole), Some(sidecar)) =
        (pod.spec("resources").and_then(Value::as_object), options.resources.as_object_mut())
    else {
        return Ok(options);
    };
    for (unit, request_key, limit_key) in UNITS {
        let limit = Bound::read(whole, "limits", unit);
        if let Some(limit) = &limit {
            check_room(pod, sidecar, (unit, request_key), limit, origin)?;
            lower(pod, sidecar, ("limits", unit), limit_key, limit)?;
        }
        if let Some(requested) = Bound::read(whole, "requests", unit).or(limit) {
            lower(pod, sidecar, ("requests", unit), request_key, &requested.without(others(pod, unit), unit))?;
        }
    }
    Ok(options)
}

/// The most that something may be.
struct Bound {
    /// What it is called, with its value.
    said: String,
    /// As a quantity.
    text: String,
    amount: Amount,
}

impl Bound {
    fn read(whole: &Map<String, Value>, bound: &str, unit: &str) -> Option<Self> {
        let text = get(whole, bound, unit)?;
        let amount = amount(&text)?;
        Some(Self { said: format!("spec.resources.{bound}.{unit} of the pod, which is {text}"), text, amount })
    }

    /// What is left of it beside so much.
    fn without(self, taken: Amount, unit: &str) -> Self {
        let left = self.amount.minus(taken).max(Amount::default());
        let text = match unit {
            "cpu" => format!("{}m", left.milli_rounded_down()),
            _ => left.rounded_down().to_string(),
        };
        Self { said: format!("what the other containers leave of {}", self.said), text, amount: left }
    }
}

/// A sidecar that may use less memory than it requests would be killed again and again, and its agent wait for it.
fn check_room(
    pod: Pod<'_>,
    sidecar: &Map<String, Value>,
    (unit, key): (&str, &str),
    limit: &Bound,
    origin: Origin,
) -> Result<(), Decision> {
    let Some(needed) = get(sidecar, "requests", unit).filter(|_| unit == "memory" && pod.annotation(key).is_none())
    else {
        return Ok(());
    };
    if amount(&needed).is_none_or(|needed| needed <= limit.amount) {
        return Ok(());
    }
    let message =
        format!("the sidecar requests {needed} of memory, more than {}; raise that, or lower {key}", limit.said);
    Err(unsuitable(origin, Reason::PodTooSmall, message))
}

fn lower(
    pod: Pod<'_>,
    sidecar: &mut Map<String, Value>,
    (bound, unit): (&str, &str),
    key: &str,
    most: &Bound,
) -> Result<(), Decision> {
    let Some(wanted) = get(sidecar, bound, unit) else { return Ok(()) };
    if amount(&wanted).is_none_or(|wanted| wanted <= most.amount) {
        return Ok(());
    }
    if pod.annotation(key).is_some() {
        let message =
            format!("annotation {key}: {wanted} is more than {}; raise that, or lower the annotation", most.said);
        return Err(Decision::Deny(Denial { reason: Reason::InvalidAnnotation, message }));
    }
    set(sidecar, bound, unit, &most.text);
    Ok(())
}

/// What the other containers request at once, as the scheduler counts it: of those that start one after another the largest.
fn others(pod: Pod<'_>, unit: &str) -> Amount {
    let (mut running, mut most) = (Amount::default(), Amount::default());
    for container in pod.others() {
        let wanted = requested(container, unit);
        let stays = container.list == List::Main
            || container.json.get("restartPolicy").is_some_and(|policy| policy == "Always");
        most = most.max(running.plus(wanted));
        if stays {
            running = running.plus(wanted);
        }
    }
    most.max(running)
}

/// A container that has a limit alone requests as much.
fn requested(container: Container<'_>, unit: &str) -> Amount {
    let resources = container.json.get("resources").and_then(Value::as_object);
    let text =
        resources.and_then(|resources| get(resources, "requests", unit).or_else(|| get(resources, "limits", unit)));
    text.and_then(|text| amount(&text)).unwrap_or_default()
}
