//! Where everything lies: the one place that knows the folders of the cache, of the dev cluster and of the repository.
//!
//! All that is built or downloaded lies under one root (`~/.cache/context-manager`, or `CONTEXT_MANAGER_HOME`), so that
//! removing it removes every trace. Nothing is written into the repository.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

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
        fs::create_dir_all(&root).with_context(|| format!("failed to make the cache folder {}", root.display()))?;
        Ok(Self(root))
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

    /// The OCI archives of the product's images.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// What a run of the demo needs besides; `demo --clean` removes it.
    pub fn demo(&self) -> PathBuf {
        self.0.join("demo")
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
            eprintln!("waiting: another run of this command is under way ({})", path.display());
            file.lock().with_context(|| format!("failed to lock {}", path.display()))?;
        }
        Ok(file)
    }
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The Go sources of the cluster's programs.
pub fn cluster_sources() -> PathBuf {
    repository().join("xtask/cluster")
}
