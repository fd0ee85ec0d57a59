//! cert-manager's controllers, as a process of this machine, and its definitions.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    core::ApiResource,
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};

use crate::{
    cluster::{self, Namespace, clean_up, eventually},
    operator::HOME,
};

/// Environment variable with the folder of program and definitions; `cargo xtask test` builds it.
const FOLDER: &str = "CONTEXT_MANAGER_TEST_CERT_MANAGER";
const INSTALL: Duration = Duration::from_secs(30);

/// The definitions; they are deleted when dropped.
pub struct Definitions {
    names: Vec<String>,
}

/// The controllers; they are killed when dropped.
pub struct CertManager {
    child: Child,
}

fn folder() -> Result<PathBuf> {
    let folder = env::var_os(FOLDER).filter(|folder| !folder.is_empty());
    folder
        .map(PathBuf::from)
        .with_context(|| format!("this suite needs cert-manager: run it by `cargo xtask test`, which sets {FOLDER}"))
}

impl Definitions {
    /// Installs those of cert-manager, and waits until they are served.
    ///
    /// # Errors
    /// When they are not there, or the API server refuses them.
    pub async fn install(client: &Client) -> Result<Self> {
        let mut definitions = Vec::new();
        for file in fs::read_dir(folder()?.join("crds"))? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                definitions.push(read(&fs::read_to_string(path)?)?);
            }
        }
        Self::apply(client, definitions).await
    }

    /// Installs one that takes any `Certificate`, where nobody makes one.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn of_certificates(client: &Client) -> Result<Self> {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "certificates.cert-manager.io"},
            "spec": {
                "group": "cert-manager.io",
                "scope": "Namespaced",
                "names": {"kind": "Certificate", "listKind": "CertificateList", "plural": "certificates", "singular": "certificate"},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }],
            },
        });
        Self::apply(client, vec![serde_json::from_value(definition)?]).await
    }

    async fn apply(client: &Client, definitions: Vec<CustomResourceDefinition>) -> Result<Self> {
        let api = Api::<CustomResourceDefinition>::all(client.clone());
        let installed = Self { names: definitions.iter().map(ResourceExt::name_any).collect() };
        for definition in definitions {
            let name = definition.name_any();
            eventually("the end of a definition that is being deleted", INSTALL, || async {
                let found = api.get_opt(&name).await?;
                let ending = found.is_some_and(|found| found.metadata.deletion_timestamp.is_some());
                (!ending).then_some(()).context("it is still there")
            })
            .await?;
            api.patch(&name, &PatchParams::apply("suite").force(), &Patch::Apply(&definition)).await?;
            let served = await_condition(api.clone(), &name, conditions::is_crd_established());
            tokio::time::timeout(INSTALL, served).await.context("a definition is not served")??;
        }
        Ok(installed)
    }
}

/// A definition without what a template of helm would fill in.
fn read(yaml: &str) -> Result<CustomResourceDefinition> {
    let mut definition: Value = serde_saphyr::from_str(yaml)?;
    for filled in ["labels", "annotations"] {
        definition["metadata"].as_object_mut().context("metadata")?.remove(filled);
    }
    Ok(serde_json::from_value(definition)?)
}

impl Drop for Definitions {
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.names);
        clean_up("cert-manager's definitions", async move |client| {
            let api = Api::<CustomResourceDefinition>::all(client);
            for name in names {
                api.delete(&name, &DeleteParams::default()).await?;
            }
            Ok(())
        });
    }
}

impl CertManager {
    /// Starts them.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn start() -> Result<Self> {
        let child = Command::new(folder()?.join("cert-manager"))
            .arg("--kubeconfig")
            .arg(cluster::kubeconfig()?)
            .args(["--cluster-resource-namespace", HOME])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start cert-manager")?;
        Ok(Self { child })
    }
}

impl Drop for CertManager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `Certificate`s of a namespace.
#[must_use]
pub fn certificates(client: &Client, namespace: &Namespace) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"));
    Api::namespaced_with(client.clone(), &namespace.name, &kind)
}

/// Makes an object of cert-manager in a namespace.
///
/// # Errors
/// When the API server refuses it.
pub async fn make(client: &Client, namespace: &Namespace, kind: &str, name: &str, spec: Value) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", kind));
    let object = DynamicObject::new(name, &kind).data(json!({"spec": spec}));
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace.name, &kind);
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}
