//! Agents with sidecars of their own before one Qdrant server.

use std::fs;

use anyhow::Result;
use tempfile::TempDir;

use crate::{client::Client, qdrant::Qdrant, sidecar::Sidecar};

/// A server with one collection, and a folder for each agent's sidecar.
pub struct Team {
    /// The server.
    pub server: Qdrant,
    folder: TempDir,
    rules: &'static str,
}

impl Team {
    /// Starts the server; the sidecars get these access rules.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn new(rules: &'static str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self { server: Qdrant::start(&folder.path().join("qdrant")).await?, folder, rules })
    }

    /// Starts the sidecar of an agent of a namespace, its tenant, with `more` before the rest of its configuration.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn agent(&self, tenant: &str, name: &str, more: &str) -> Result<(Sidecar, Client)> {
        self.sidecar(&format!("{tenant}-{name}"), tenant, name, more).await
    }

    /// Starts one more sidecar of an agent, in a pod of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn replica(&self, tenant: &str, name: &str, pod: &str, more: &str) -> Result<(Sidecar, Client)> {
        self.sidecar(&format!("{tenant}-{name}-{pod}"), tenant, name, more).await
    }

    async fn sidecar(&self, folder: &str, tenant: &str, name: &str, more: &str) -> Result<(Sidecar, Client)> {
        let folder = self.folder.path().join(folder);
        fs::create_dir_all(&folder)?;
        let config = format!(
            "{more}\n[store.qdrant]\nurl = \"http://{}\"\ncollection = \"memory\"\n[circuit_breaker]\nopen_for = \"200ms\"\n\
             [journal]\npath = \"{}\"\n{}",
            self.server.address(),
            folder.join("journal").display(),
            self.rules
        );
        let sidecar = Sidecar::start_agent(tenant, name, &folder, &config).await?;
        let client = sidecar.client()?;
        Ok((sidecar, client))
    }
}
