//! The nodes' network on this machine: a bridge per node, the route for Service addresses, the wall around the pods, and
//! the kernel settings that the parts change.
//!
//! Pods reach each other, this machine's bridge addresses and Services, and nothing else: no packet of theirs leaves by
//! another interface, and none comes in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};

use super::packages::SystemPrograms;
use super::state::{State, node_address, write_if_changed};
use crate::command;

/// The addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// The addresses of all pods.
pub const PODS: &str = "10.244.0.0/16";
const BRIDGES: &str = "ctxm";
const WALL: &str = "context_manager_dev";

/// What kubelet, kube-proxy and the CNI plugins change in the kernel.
const SETTINGS: [&str; 8] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
];

/// The name of a node's bridge.
pub fn bridge(node: u8) -> String {
    format!("{BRIDGES}{node}")
}

/// The addresses of a node's pods.
pub fn pods(node: u8) -> String {
    format!("10.244.{node}.0/24")
}

/// Makes the bridges that are missing. They come first, because the API server listens on the first one's address.
pub fn make_bridges(ip: &Path, nodes: u8) -> Result<()> {
    for node in 0..nodes {
        let (name, address) = (bridge(node), node_address(node));
        if !Path::new("/sys/class/net").join(&name).exists() {
            refuse_foreign(ip, &pods(node))?;
            refuse_foreign(ip, SERVICES)?;
            command::output(Command::new(ip).args(["link", "add", &name, "type", "bridge"]))?;
        }
        command::output(Command::new(ip).args(["addr", "replace", &format!("{address}/24"), "dev", &name]))?;
        command::output(Command::new(ip).args(["link", "set", &name, "up"]))?;
    }
    Ok(())
}

/// Sets the route and the wall, and switches forwarding on. Saves the kernel's settings before the first change.
pub fn set_up(state: &State, system: &SystemPrograms) -> Result<()> {
    save_settings(state)?;
    // A Service address that kube-proxy does not know (yet) must fail here instead of leaving by the default route.
    command::output(Command::new(&system.ip).args(["route", "replace", SERVICES, "dev", &bridge(0)]))?;
    command::output_with_input(Command::new(&system.nft).args(["-f", "-"]), &wall())?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("failed to switch IPv4 forwarding on")?;
    Ok(())
}

/// Writes down the kernel's settings as they are, unless that was done before.
pub fn save_settings(state: &State) -> Result<()> {
    let file = state.path("kernel-settings.json");
    if !file.exists() {
        let settings: BTreeMap<&str, String> = SETTINGS
            .iter()
            .filter_map(|name| Some((*name, fs::read_to_string(setting(name)).ok()?.trim().to_owned())))
            .collect();
        write_if_changed(&file, &serde_json::to_string(&settings)?)?;
    }
    Ok(())
}

/// Puts the kernel's settings back as they were saved.
pub fn restore_settings(state: &State) -> Result<()> {
    let Ok(text) = fs::read(state.path("kernel-settings.json")) else {
        return Ok(());
    };
    let settings: BTreeMap<String, String> =
        serde_json::from_slice(&text).context("the saved kernel settings are damaged")?;
    for (name, value) in settings {
        let is = fs::read_to_string(setting(&name)).unwrap_or_default();
        if is.trim() != value {
            fs::write(setting(&name), &value).with_context(|| format!("failed to set {name} back to {value}"))?;
        }
    }
    Ok(())
}

/// Removes bridges, what hangs on them, and the packet filter's tables. What is not there is no error.
pub fn tear_down() -> Result<()> {
    if let Some(nft) = command::find_program("nft") {
        for table in [["ip", "kube-proxy"], ["ip6", "kube-proxy"], ["inet", WALL]] {
            command::succeeds(Command::new(&nft).args(["delete", "table"]).args(table));
        }
    }
    for bridge in bridges() {
        let ip = command::find_program("ip").context("ip (package iproute2) is needed to remove the bridges")?;
        let ports = fs::read_dir(format!("/sys/class/net/{bridge}/brif")).into_iter().flatten().filter_map(Result::ok);
        for port in ports {
            command::succeeds(Command::new(&ip).args(["link", "del"]).arg(port.file_name()));
        }
        command::succeeds(Command::new(&ip).args(["link", "del", &bridge]));
        if Path::new("/sys/class/net").join(&bridge).exists() {
            bail!("the bridge {bridge} cannot be removed");
        }
    }
    Ok(())
}

/// Unmounts all that is mounted below the state folder, innermost first.
pub fn unmount_all(state: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("failed to read the table of mounts")?;
    let mut points = mounts_below(&table, state);
    points.sort();
    for point in points.iter().rev() {
        umount2(point.as_str(), MntFlags::MNT_DETACH).with_context(|| format!("failed to unmount {point}"))?;
    }
    // Removing the folder with something of somebody else's still mounted in it would remove that, too.
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    if let Some(left) = mounts_below(&table, state).first() {
        bail!("{left} is still mounted");
    }
    Ok(())
}

/// This machine's bridges that are ours.
pub fn bridges() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix(BRIDGES).is_some_and(|rest| rest.len() == 1 && rest.as_bytes()[0].is_ascii_digit())
        })
        .collect()
}

fn wall() -> String {
    // The first line makes the table if it is missing, so that the second can delete it in any case.
    format!(
        "table inet {WALL}\n\
         delete table inet {WALL}\n\
         table inet {WALL} {{\n\
           chain guard {{\n\
             type filter hook forward priority -5;\n\
             iifname \"{BRIDGES}*\" oifname != \"{BRIDGES}*\" reject;\n\
             iifname != \"{BRIDGES}*\" oifname \"{BRIDGES}*\" reject;\n\
           }}\n\
         }}\n"
    )
}

fn refuse_foreign(ip: &Path, network: &str) -> Result<()> {
    let routes = command::output(Command::new(ip).args(["-4", "route", "show", "root", network]))?;
    let foreign = routes.lines().find(|line| !line.contains(&format!("dev {BRIDGES}")) && !line.starts_with("default"));
    if let Some(route) = foreign {
        bail!("this machine already uses {network}, which the dev cluster needs (route: {})", route.trim());
    }
    Ok(())
}

fn setting(name: &str) -> String {
    format!("/proc/sys/{name}")
}

fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|point| Path::new(point) != folder && Path::new(point).starts_with(folder))
        .collect()
}

/// Undoes the kernel's `\040` for a space and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(byte) = code {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_state_are_found() {
        let table = "1 0 0:1 / / rw - ext4 /dev/a rw\n\
            2 1 0:2 / /home/u/s rw - tmpfs tmpfs rw\n\
            3 1 0:2 / /home/u/s/node0/a\\040b rw - tmpfs tmpfs rw\n\
            4 1 0:2 / /home/u/s2/node0 rw - tmpfs tmpfs rw\n";
        assert_eq!(mounts_below(table, Path::new("/home/u/s")), ["/home/u/s/node0/a b"]);
    }

    #[test]
    fn escapes_of_the_kernel_are_undone() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("a\\9"), "a\\9");
    }

    #[test]
    fn wall_closes_both_directions() {
        let rules = wall();
        assert!(rules.contains("iifname \"ctxm*\" oifname != \"ctxm*\" reject"));
        assert!(rules.contains("iifname != \"ctxm*\" oifname \"ctxm*\" reject"));
    }
}
