//! The state folder of the dev cluster: what lies where in it, and what kind of cluster it was made for.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The most nodes a dev cluster can have.
pub const MOST_NODES: u8 = 9;
/// The file in it that says what kind of cluster this is.
pub const RECORD: &str = "cluster.json";
/// A Unix socket's path may have 107 bytes; this is how long the ones below a node's folder get.
const LONGEST_SOCKET: &str = "/node0/kubelet/pod-resources/kubelet.sock.1234567890";

/// The folder.
#[derive(Clone, Debug)]
pub struct State(PathBuf);

/// What the cluster was made as; fixed until it is taken down, but for nodes that are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The number of real nodes; 0 is an API server alone.
    pub nodes: u8,
}

impl Shape {
    /// The shape in words.
    pub fn describe(self) -> String {
        match self.nodes {
            0 => "API server only".to_owned(),
            1 => "1 node".to_owned(),
            many => format!("{many} nodes"),
        }
    }
}

/// What is kept in [`RECORD`].
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    shape: Shape,
    /// The kernel's id of this boot: after another one, all that was started or set up is gone.
    boot: String,
}

impl State {
    /// The state in that folder, which need not exist yet.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Refuses a folder below which sockets could not be made, or whose path the configuration files of the parts and the
    /// options of mounts cannot hold.
    pub fn check_path(&self) -> Result<()> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.+@~".contains(byte);
        if !self.0.as_os_str().as_encoded_bytes().iter().all(plain) {
            bail!(
                "{} has a space or another character that some part of the cluster cannot have in its paths; set \
                 CONTEXT_MANAGER_HOME to a path of letters, digits and -_.+@~",
                self.0.display()
            );
        }
        let longest = self.0.as_os_str().len() + LONGEST_SOCKET.len();
        if longest > 107 {
            bail!(
                "{} is too long a path: sockets below it would need {longest} bytes of the 107 that the kernel allows; set \
                 CONTEXT_MANAGER_HOME to a shorter one",
                self.0.display()
            );
        }
        Ok(())
    }

    /// Makes the folder, closed to other users because it holds the cluster's secrets.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(self.0.join("logs")).with_context(|| format!("failed to make {}", self.0.display()))?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))?;
        Ok(())
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// A file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// The log of one part.
    pub fn log(&self, part: &str) -> PathBuf {
        self.0.join("logs").join(format!("{part}.log"))
    }

    /// The folder of one node.
    pub fn node(&self, node: u8) -> PathBuf {
        self.path(&format!("node{node}"))
    }

    /// What cluster this is the state of, if it is one of this boot of the machine.
    pub fn shape(&self) -> Option<Shape> {
        let record: Record = serde_json::from_slice(&fs::read(self.path(RECORD)).ok()?).ok()?;
        (record.boot == boot()).then_some(record.shape)
    }

    /// Whether there is a folder, be it whole, half made, or from before a reboot.
    pub fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Records what cluster this is.
    pub fn record(&self, shape: Shape) -> Result<()> {
        let text = serde_json::to_string(&Record { shape, boot: boot() })?;
        write_if_changed(&self.path(RECORD), &text)?;
        Ok(())
    }
}

/// Writes a file that only its owner may read, and tells whether its content is new.
pub fn write_if_changed(path: &Path, text: &str) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    let unfinished = path.with_extension("unfinished");
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("failed to write {}", path.display()))?;
    Ok(true)
}

/// The address of a node, which is its bridge's own; the first node's is the API server's and the DNS server's too.
pub const fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, 1)
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(folder: &tempfile::TempDir) -> State {
        State::new(folder.path().join("cluster"))
    }

    #[test]
    fn recorded_shape_is_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = state(&folder);
        state.create().expect("create");
        assert_eq!(state.shape(), None);
        state.record(Shape { nodes: 2 }).expect("record");
        assert_eq!(state.shape(), Some(Shape { nodes: 2 }));
    }

    #[test]
    fn state_of_another_boot_is_no_cluster() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = state(&folder);
        state.create().expect("create");
        fs::write(state.path("cluster.json"), r#"{"shape":{"nodes":1},"boot":"some other boot"}"#).expect("write");
        assert_eq!(state.shape(), None);
        assert!(state.exists());
    }

    #[test]
    fn path_too_long_for_sockets_is_refused_with_the_remedy() {
        let state = State::new(PathBuf::from(format!("/tmp/{}", "x".repeat(90))));
        let error = state.check_path().expect_err("too long").to_string();
        assert!(error.contains("CONTEXT_MANAGER_HOME"), "{error}");
    }

    #[test]
    fn path_that_a_part_would_misread_is_refused_with_the_remedy() {
        assert!(State::new(PathBuf::from("/home/o-b_r.1/.cache/context-manager/cluster")).check_path().is_ok());
        for path in ["/tmp/my cache/cluster", "/tmp/a:b/cluster", "/tmp/a,b/cluster", "/tmp/a#b/cluster"] {
            let error = State::new(PathBuf::from(path)).check_path().expect_err(path).to_string();
            assert!(error.contains("CONTEXT_MANAGER_HOME"), "{error}");
        }
    }

    #[test]
    fn unchanged_file_is_not_written_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("a/b.yaml");
        assert!(write_if_changed(&file, "one").expect("write"));
        assert!(!write_if_changed(&file, "one").expect("write"));
        assert!(write_if_changed(&file, "two").expect("write"));
        let mode = fs::metadata(&file).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it may hold a token");
    }
}
