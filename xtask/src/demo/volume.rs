//! A volume where the cluster cannot make one: the dev cluster has no storage provisioner, so the demo makes a folder of this
//! machine, which is its node, and a `PersistentVolume` of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::kube::Kube;
use super::{AGENTS, screen};
use crate::paths::Home;

/// The volume's name.
pub const NAME: &str = "demo-memory";
/// The claim that it is for; the operator makes it.
const CLAIM: &str = "memory-context-data";
/// User and group of the sidecar, as its image says.
const USER: u32 = 65532;

/// Makes the folder, empty, and the volume.
pub fn provide(kube: &Kube, home: &Home) -> Result<()> {
    let folder = folder(home);
    remove_folder(home)?;
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o770))?;
    std::os::unix::fs::chown(&folder, Some(USER), Some(USER))
        .with_context(|| format!("failed to give {} to the sidecar's user", folder.display()))?;
    screen::note("this cluster has no storage provisioner, so the volume is made by hand, from a folder of the node");
    kube.apply(&manifest(&folder.display().to_string()))
}

/// Removes the folder with all that was remembered in it.
pub fn remove_folder(home: &Home) -> Result<()> {
    let folder = folder(home);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    Ok(())
}

fn folder(home: &Home) -> PathBuf {
    home.demo().join("volume")
}

fn manifest(folder: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolume
metadata:
  name: {NAME}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {{namespace: {AGENTS}, name: {CLAIM}}}
  hostPath: {{path: {folder:?}, type: Directory}}
"
    )
}
