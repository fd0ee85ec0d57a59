//! Where everything lies: the one place that knows the folders of the cache, of the dev cluster and of the repository.
//!
//! All that is built or downloaded lies under one root (`~/.cache/context-manager`, or `CONTEXT_MANAGER_HOME`), so that
//! removing it removes every trace. Nothing is written into the repository.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};

/// The root of the cache.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// Finds the root and makes it, if it is not there yet.
    pub fn find() -> Result<Self> {
        let root = match std::env::var_os("CONTEXT_MANAGER_HOME") {
            Some(root) if !root.is_empty() => std::path::absolute(root)?,
            _ => std::env::home_dir()
                .context("this user has no home folder; set CONTEXT_MANAGER_HOME to a folder for the cache")?
                .join(".cache/context-manager"),
        };
        Self::at(&root)
    }

    /// Links are followed once and for all: the kernel's table of mounts has no links in its paths, and `cluster down` looks
    /// there for what it has to unmount before it removes the folder.
    fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)
            .and_then(|()| root.canonicalize())
            .map(Self)
            .with_context(|| format!("failed to make the cache folder {}", root.display()))
    }

    /// The state of the dev cluster; `cluster down` removes it.
    pub fn cluster(&self) -> PathBuf {
        self.0.join("cluster")
    }

    /// The Kubernetes programs of one version and one set of sources; kept until removed by hand.
    pub fn kubernetes(&self, version: &str) -> PathBuf {
        self.0.join("kubernetes").join(version)
    }

    /// Programs unpacked from Debian packages without installing them.
    pub fn tools(&self) -> PathBuf {
        self.0.join("tools")
    }

    /// Schemathesis with packages of these versions.
    pub fn schemathesis(&self, versions: &str) -> PathBuf {
        self.0.join("schemathesis").join(versions)
    }

    /// The OCI archives of the product's images.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// What a run of the demo needs besides; `demo --clean` removes it.
    pub fn demo(&self) -> PathBuf {
        self.0.join("demo")
    }

    /// What the fuzz targets were compiled to, and what they found.
    pub fn fuzz(&self) -> PathBuf {
        self.0.join("fuzz")
    }

    /// Cargo's target folder for release builds: shared by all checkouts, because compiling the vector engine takes minutes.
    pub fn target(&self) -> PathBuf {
        self.0.join("target")
    }

    /// Takes the lock of that name, and waits (saying so) while another process holds it. It is held until dropped.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.0.join(format!("{name}.lock"));
        let file = File::create(&path).with_context(|| format!("failed to open {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("waiting: another run of these commands is under way ({})", path.display());
            file.lock().with_context(|| format!("failed to lock {}", path.display()))?;
        }
        Ok(file)
    }
}

/// The root of the repository: of the one whose cargo runs this program, even if the program was compiled in another folder.
/// Started by hand, it is the one that it was compiled in.
pub fn repository() -> &'static Path {
    static REPOSITORY: LazyLock<PathBuf> =
        LazyLock::new(|| repository_of(std::env::var_os("CARGO_MANIFEST_DIR"), env!("CARGO_MANIFEST_DIR")));
    &REPOSITORY
}

fn repository_of(manifest: Option<OsString>, compiled: &str) -> PathBuf {
    let manifest = manifest.map(PathBuf::from).filter(|folder| folder.join("cluster/go.mod").is_file());
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(compiled));
    manifest.parent().map(Path::to_owned).unwrap_or(manifest)
}

/// The Go sources of the cluster's programs.
pub fn cluster_sources() -> PathBuf {
    repository().join("xtask/cluster")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_behind_a_link_has_the_paths_that_the_kernel_knows() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let real = folder.path().canonicalize().expect("its path").join("real");
        fs::create_dir(&real).expect("made");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        let home = Home::at(&link.join("cache")).expect("a home");
        assert_eq!(home.cluster(), real.join("cache/cluster"));
    }

    #[test]
    fn the_running_cargos_repository_comes_before_the_compiled_one() {
        let moved = tempfile::tempdir().expect("a temporary folder");
        let manifest = moved.path().join("xtask");
        let repository = || repository_of(Some(manifest.clone().into()), "/compiled/xtask");
        assert_eq!(repository(), Path::new("/compiled"), "another package's variable says nothing");
        fs::create_dir_all(manifest.join("cluster")).expect("made");
        fs::write(manifest.join("cluster/go.mod"), "").expect("written");
        assert_eq!(repository(), moved.path());
        assert_eq!(repository_of(None, "/compiled/xtask"), Path::new("/compiled"));
    }
}
