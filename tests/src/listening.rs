//! What a process of this machine listens on, by the kernel's own tables.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};

/// The state of a listening TCP socket, as the tables write it.
const LISTEN: &str = "0A";

/// The TCP and UDP ports that a process has bound.
///
/// # Errors
/// When it does not run, or belongs to somebody else.
pub fn ports(process: i32) -> Result<BTreeSet<u16>> {
    let mut own = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        // A descriptor may be closed meanwhile.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let inode = target.to_string_lossy().strip_prefix("socket:[").map(|rest| rest.trim_end_matches(']').to_owned());
        own.extend(inode);
    }
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/{process}/net/{table}"))?;
        for line in text.lines().skip(1) {
            let columns: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, state, ..] = columns.as_slice() else { continue };
            let is_own = columns.get(9).is_some_and(|inode| own.contains(*inode));
            if is_own && (table.starts_with("udp") || *state == LISTEN) {
                let (_, port) = local.rsplit_once(':').context("an address has a port")?;
                ports.insert(u16::from_str_radix(port, 16)?);
            }
        }
    }
    Ok(ports)
}
