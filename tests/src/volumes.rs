//! Volumes of a class of their own on this machine, which is the cluster's node.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::Result;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tempfile::TempDir;

use crate::cluster::{self, clean_up};

/// Volumes; they end when dropped.
pub struct Volumes {
    class: String,
    count: usize,
    folder: TempDir,
}

impl Volumes {
    /// Makes a volume of 1Gi for each of these access modes.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn make(class: &str, modes: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let volumes = Api::<PersistentVolume>::all(cluster::client().await?);
        for (index, mode) in modes.iter().enumerate() {
            let path = folder.path().join(index.to_string());
            fs::create_dir(&path)?;
            // The pods' user is another one, and a folder of the machine takes no group.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
            let volume = serde_json::from_value(json!({
                "metadata": {"name": format!("{class}-{index}")},
                "spec": {
                    "capacity": {"storage": "1Gi"}, "accessModes": [mode], "storageClassName": class,
                    "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": path},
                },
            }))?;
            volumes.create(&PostParams::default(), &volume).await?;
        }
        Ok(Self { class: class.to_owned(), count: modes.len(), folder })
    }

    /// Their class.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The folder of one of them.
    #[must_use]
    pub fn folder(&self, index: usize) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(index.to_string())
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        let (class, count) = (self.class.clone(), self.count);
        clean_up("the volumes", async move |client| {
            for index in 0..count {
                let volumes = Api::<PersistentVolume>::all(client.clone());
                volumes.delete(&format!("{class}-{index}"), &DeleteParams::default()).await?;
            }
            Ok(())
        });
    }
}
