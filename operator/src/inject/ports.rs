//! The ports of the sidecar: those that were asked for where they are free in the pod, else the next free ones.
//!
//! Containers of a pod share one network namespace, so a declared TCP port is taken for all of them. A port that the pod's
//! annotation names is a demand, and is never moved: its author may have written it elsewhere too.

use std::collections::BTreeMap;

use context_manager_protocol::names;
use serde_json::Value;

use super::{
    Denial, Reason,
    options::Options,
    pod::{Container, Pod},
};

/// The highest port that is given out: from 32768 on the kernel gives ports to outgoing connections.
const LAST: u16 = 32_767;
/// The lowest one that a process without privileges may listen on.
const FIRST: u16 = 1_024;

/// A port as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// By the pod's annotation: this one or none.
    Demanded(u16),
    /// By the resource or the default: this one where it is free.
    Preferred(u16),
}

impl Wanted {
    const fn port(self) -> u16 {
        match self {
            Self::Demanded(port) | Self::Preferred(port) => port,
        }
    }

    const fn is_demanded(self) -> bool {
        matches!(self, Self::Demanded(_))
    }
}

/// The ports that a pod's sidecar listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The protocol's, on loopback.
    pub protocol: u16,
    /// That of probes and metrics, on the pod's address.
    pub admin: u16,
    /// Whether one of them is another than resource or default say, because a container of the pod has that one.
    pub moved: bool,
}

/// One of the two listeners, with the annotation that names its port.
#[derive(Clone, Copy)]
struct Listener {
    name: &'static str,
    key: &'static str,
    wanted: Wanted,
}

/// The ports, and what to tell about those that moved.
pub(super) fn choose(pod: Pod<'_>, options: &Options) -> Result<(Ports, Vec<String>), Denial> {
    let protocol = Listener { name: "protocol", key: names::PROTOCOL_PORT, wanted: options.protocol_port };
    let admin = Listener { name: "admin", key: names::ADMIN_PORT, wanted: options.admin_port };
    let mut taken = BTreeMap::new();
    for container in pod.others() {
        for port in declared(container) {
            taken.entry(port).or_insert_with(|| format!("container {:?}", container.name));
        }
    }
    late(pod, &taken)?;
    let mut notes = Vec::new();
    // A demand goes first; otherwise neither listener takes what the other one wants.
    let (first, second) = if admin.wanted.is_demanded() { (admin, protocol) } else { (protocol, admin) };
    let one = place(first, &taken, second.wanted.port(), &mut notes)?;
    taken.entry(one).or_insert_with(|| format!("the sidecar's {} listener", first.name));
    let two = place(second, &taken, one, &mut notes)?;
    let (protocol, admin) = if admin.wanted.is_demanded() { (two, one) } else { (one, two) };
    Ok((Ports { protocol, admin, moved: !notes.is_empty() }, notes))
}

fn place(
    listener: Listener,
    taken: &BTreeMap<u16, String>,
    reserved: u16,
    notes: &mut Vec<String>,
) -> Result<u16, Denial> {
    let Listener { name, key, wanted } = listener;
    let port = wanted.port();
    let Some(who) = taken.get(&port) else { return Ok(port) };
    if wanted.is_demanded() {
        let message = format!(
            "{who} uses port {port}, which the annotation {key} demands for the sidecar; name another one there, or remove the \
             annotation so that a free one is taken"
        );
        return Err(Denial { reason: Reason::PortTaken, message });
    }
    let is_free = |candidate: &u16| *candidate != reserved && !taken.contains_key(candidate);
    // Upwards from the port that was wanted, so that it is easy to guess and the same at each call.
    let above = port.saturating_add(1).max(FIRST)..=LAST;
    let Some(free) = above.chain(FIRST..=port.min(LAST)).find(is_free) else {
        let message = format!(
            "{who} uses port {port}, and the pod's containers declare all others from {FIRST} to {LAST}, so none is left for the \
             sidecar's {name} listener; name one with the annotation {key}"
        );
        return Err(Denial { reason: Reason::PortTaken, message });
    };
    notes.push(format!("{who} uses port {port}, so the sidecar's {name} listener has port {free}"));
    Ok(free)
}

/// A sidecar that is there already cannot move any more: its ports stand in containers that were served before.
fn late(pod: Pod<'_>, taken: &BTreeMap<u16, String>) -> Result<(), Denial> {
    for (variable, key) in
        [(names::ENV_PROTOCOL_PORT, names::PROTOCOL_PORT), (names::ENV_ADMIN_PORT, names::ADMIN_PORT)]
    {
        let Some(port) = pod.sidecar().and_then(|sidecar| variable_of(sidecar.json, variable)) else { continue };
        if let Some(who) = taken.get(&port) {
            let message = format!(
                "{who} was added after the sidecar, and uses its port {port}; name another port for the sidecar with the annotation {key}"
            );
            return Err(Denial { reason: Reason::PortTaken, message });
        }
    }
    Ok(())
}

fn variable_of(container: &Value, variable: &str) -> Option<u16> {
    let entries = container.get("env")?.as_array()?;
    let entry = entries.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(variable))?;
    entry.get("value")?.as_str()?.parse().ok()
}

fn declared(container: Container<'_>) -> impl Iterator<Item = u16> {
    let entries = container.json.get("ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let tcp = |entry: &&Value| entry.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP");
    let port = |entry: &Value| u16::try_from(entry.get("containerPort")?.as_u64()?).ok();
    entries.iter().filter(tcp).filter_map(port)
}
