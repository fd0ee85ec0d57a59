//! What a pod's annotations say about its sidecar, checked; each refusal names the annotation and the remedy.

use context_manager_crds::{context_manager::sidecar::Mode, quantity::Amount};
use context_manager_protocol::names;
use serde_json::{Map, Value, json};

use super::{Denial, Reason, Resource, agent, pod::Pod, ports::Wanted};

/// Annotations that a pod may carry.
const KNOWN: &[&str] = &[
    names::INJECT,
    names::NAME,
    names::AGENT_ID,
    names::CONTAINERS,
    names::PROTOCOL_PORT,
    names::ADMIN_PORT,
    names::MODE,
    names::LOG_LEVEL,
    names::SIDECAR_CPU_REQUEST,
    names::SIDECAR_MEMORY_REQUEST,
    names::SIDECAR_CPU_LIMIT,
    names::SIDECAR_MEMORY_LIMIT,
    names::INJECTED_HASH,
    names::INJECTED_TEMPLATE,
    names::INJECTED_PORTS,
    names::UPGRADE,
];

/// Most containers that get access: for each of them a patch has as much as for the sidecar.
pub(super) const MOST_CONTAINERS: usize = 256;

/// What the sidecar gets where nobody says anything else. There is no CPU limit, since throttling would only add to the
/// latency of each call.
const DEFAULTS: &[(&str, &str, &str)] =
    &[("requests", "cpu", "10m"), ("requests", "memory", "32Mi"), ("limits", "memory", "256Mi")];

const QUANTITIES: &[(&str, &str, &str)] = &[
    (names::SIDECAR_CPU_REQUEST, "requests", "cpu"),
    (names::SIDECAR_MEMORY_REQUEST, "requests", "memory"),
    (names::SIDECAR_CPU_LIMIT, "limits", "cpu"),
    (names::SIDECAR_MEMORY_LIMIT, "limits", "memory"),
];

/// The resource's settings with the pod's own put over them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) agent: Option<String>,
    pub(super) containers: Option<Vec<String>>,
    pub(super) protocol_port: Wanted,
    pub(super) admin_port: Wanted,
    pub(super) log_level: Option<String>,
    pub(super) resources: Value,
}

impl Options {
    pub(super) fn read(pod: Pod<'_>, resource: &Resource) -> Result<Self, Denial> {
        Ok(Self {
            mode: mode(pod, resource)?,
            agent: agent_id(pod)?,
            containers: containers(pod)?,
            protocol_port: port(pod, names::PROTOCOL_PORT, resource.protocol_port)?,
            admin_port: port(pod, names::ADMIN_PORT, resource.admin_port)?,
            log_level: log_level(pod)?,
            resources: resources(pod, resource)?,
        })
    }
}

/// Warnings about annotations that look like ours but mean nothing: most often a slip of the pen.
pub(super) fn warnings(pod: Pod<'_>) -> Vec<String> {
    let ours = |key: &&str| key.split_once('/').is_some_and(|(prefix, _)| prefix == names::GROUP);
    pod.annotation_keys()
        .filter(ours)
        .filter(|key| !KNOWN.contains(key))
        .map(|key| format!("annotation {key} is not known and has no effect; docs/injection.md lists those that are"))
        .collect()
}

fn invalid(key: &str, what: impl std::fmt::Display) -> Denial {
    Denial { reason: Reason::InvalidAnnotation, message: format!("annotation {key}: {what}") }
}

fn mode(pod: Pod<'_>, resource: &Resource) -> Result<Mode, Denial> {
    match pod.annotation(names::MODE) {
        None => Ok(resource.mode),
        Some("Native") => Ok(Mode::Native),
        Some("Classic") => Ok(Mode::Classic),
        Some(other) => {
            Err(invalid(names::MODE, format_args!("{other:?} is not a mode; write \"Native\" or \"Classic\"")))
        }
    }
}

fn agent_id(pod: Pod<'_>) -> Result<Option<String>, Denial> {
    let Some(id) = pod.annotation(names::AGENT_ID) else { return Ok(None) };
    agent::check(id).map_err(|what| invalid(names::AGENT_ID, what))?;
    Ok(Some(id.to_owned()))
}

fn containers(pod: Pod<'_>) -> Result<Option<Vec<String>>, Denial> {
    let Some(list) = pod.annotation(names::CONTAINERS) else { return Ok(None) };
    if list.split(',').nth(MOST_CONTAINERS).is_some() {
        return Err(invalid(names::CONTAINERS, format_args!("it has more than {MOST_CONTAINERS} names")));
    }
    let mut chosen: Vec<String> = Vec::new();
    for name in list.split(',').map(str::trim) {
        if name.is_empty() {
            return Err(invalid(names::CONTAINERS, format_args!("{list:?} has an empty name; write \"one,two\"")));
        }
        if !chosen.iter().any(|known| known == name) {
            chosen.push(name.to_owned());
        }
    }
    Ok(Some(chosen))
}

/// Ports below 1024 are left out because the sidecar runs without privileges.
fn port(pod: Pod<'_>, key: &str, of_resource: u16) -> Result<Wanted, Denial> {
    let Some(text) = pod.annotation(key) else { return Ok(Wanted::Preferred(of_resource)) };
    match text.parse::<u16>() {
        Ok(port) if port >= 1024 => Ok(Wanted::Demanded(port)),
        Ok(_) | Err(_) => Err(invalid(key, format_args!("{text:?} is not a port from 1024 to 65535"))),
    }
}

fn log_level(pod: Pod<'_>) -> Result<Option<String>, Denial> {
    let Some(level) = pod.annotation(names::LOG_LEVEL) else { return Ok(None) };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_:=,-".contains(&byte);
    if level.is_empty() || level.len() > 256 || !level.bytes().all(allowed) {
        let what = format!("{level:?} is not a log filter; write a level such as \"debug\" or \"info,hyper=warn\"");
        return Err(invalid(names::LOG_LEVEL, what));
    }
    Ok(Some(level.to_owned()))
}

/// Annotations win over the resource, and the resource over the defaults. A default never contradicts what somebody
/// asked for: it gives way to the other bound.
fn resources(pod: Pod<'_>, resource: &Resource) -> Result<Value, Denial> {
    let mut merged = resource.resources.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    for &(key, bound, unit) in QUANTITIES {
        let Some(text) = pod.annotation(key) else { continue };
        if !text.parse().is_ok_and(Amount::is_positive) {
            let what = format!("{text:?} is not a quantity above zero, such as \"50m\" for cpu or \"64Mi\" for memory");
            return Err(invalid(key, what));
        }
        set(&mut merged, bound, unit, text);
    }
    for &(bound, unit, default) in DEFAULTS {
        if get(&merged, bound, unit).is_none() {
            let other = get(&merged, if bound == "requests" { "limits" } else { "requests" }, unit);
            let fitting = fit(bound, default, other.as_deref());
            set(&mut merged, bound, unit, &fitting);
        }
    }
    check_bounds(&merged)?;
    Ok(Value::Object(merged))
}

pub(super) fn get(resources: &Map<String, Value>, bound: &str, unit: &str) -> Option<String> {
    match resources.get(bound)?.get(unit)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// How much it is; nothing when it is not a quantity, about which the API server has its own words.
pub(super) fn amount(text: &str) -> Option<Amount> {
    text.parse().ok()
}

pub(super) fn set(resources: &mut Map<String, Value>, bound: &str, unit: &str, text: &str) {
    let entry = resources.entry(bound).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    if let Some(units) = entry.as_object_mut() {
        units.insert(unit.to_owned(), json!(text));
    }
}

fn fit(bound: &str, default: &str, other: Option<&str>) -> String {
    let Some((other, value, by_default)) = other.and_then(|text| Some((text, amount(text)?, amount(default)?))) else {
        return default.to_owned();
    };
    let contradicts = if bound == "requests" { by_default > value } else { by_default < value };
    if contradicts { other.to_owned() } else { default.to_owned() }
}

fn check_bounds(resources: &Map<String, Value>) -> Result<(), Denial> {
    for (unit, request_key, limit_key) in [
        ("cpu", names::SIDECAR_CPU_REQUEST, names::SIDECAR_CPU_LIMIT),
        ("memory", names::SIDECAR_MEMORY_REQUEST, names::SIDECAR_MEMORY_LIMIT),
    ] {
        let (Some(request), Some(limit)) = (get(resources, "requests", unit), get(resources, "limits", unit)) else {
            continue;
        };
        if amount(&request).zip(amount(&limit)).is_some_and(|(request, limit)| request > limit) {
            let what = format!("the request {request} is above the limit {limit}; raise {limit_key} or lower it");
            return Err(invalid(request_key, what));
        }
    }
    Ok(())
}
