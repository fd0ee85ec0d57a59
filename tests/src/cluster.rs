//! The cluster that suites run on, and a namespace for each test.
//!
//! A suite without a cluster fails, and says what to do: what is not tested must not look tested.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    future::Future,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use context_manager_crds::ContextManager;
use k8s_openapi::{
    api::core::v1::{Namespace as NamespaceObject, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, NamespaceResourceScope},
    runtime::{conditions, wait::await_condition},
};
use rand::RngExt as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Environment variable with the path of the kubeconfig; `cargo xtask test` sets it.
pub const KUBECONFIG: &str = "CONTEXT_MANAGER_TEST_KUBECONFIG";
/// Environment variable with the path of kubectl, which is otherwise looked for in `PATH`.
pub const KUBECTL: &str = "CONTEXT_MANAGER_TEST_KUBECTL";
/// Field manager of what the suites write.
pub const FIELD_MANAGER: &str = "suites";

const INSTALL: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A client of the cluster.
///
/// # Errors
/// When there is no cluster.
pub async fn client() -> Result<Client> {
    Ok(Client::try_from(config().await?)?)
}

/// How the cluster is reached.
///
/// # Errors
/// When there is no cluster.
pub async fn config() -> Result<Config> {
    install_tls();
    let path = kubeconfig()?;
    let read = Kubeconfig::read_from(&path).with_context(|| format!("failed to read {}", path.display()))?;
    Ok(Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?)
}

/// The kubeconfig that the suites were given.
///
/// # Errors
/// When they were given none.
pub fn kubeconfig() -> Result<PathBuf> {
    match std::env::var_os(KUBECONFIG) {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => bail!("this suite needs a cluster: run it by `cargo xtask test`, which starts one and sets {KUBECONFIG}"),
    }
}

/// Two TLS providers may be in the dependency graph, so rustls wants to be told. The second call of a process changes nothing.
pub fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Applies the definition of `ContextManager`, unless the cluster has just this one, and waits until it is served.
///
/// # Errors
/// When the API server refuses it.
pub async fn install_definition(client: &Client) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let wanted = definition()?;
    let found = eventually("the end of a definition that is being deleted", INSTALL, || async {
        let found = api.get_opt("contextmanagers.contextmanager.dev").await?;
        let ending = found.as_ref().is_some_and(|found| found.metadata.deletion_timestamp.is_some());
        (!ending).then_some(found).context("it is still there")
    })
    .await?;
    if found.is_none_or(|found| json!(found.spec) != json!(wanted.spec)) {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch("contextmanagers.contextmanager.dev", &params, &Patch::Apply(&wanted)).await?;
    }
    let served = await_condition(api, "contextmanagers.contextmanager.dev", conditions::is_crd_established());
    tokio::time::timeout(INSTALL, served).await.context("the definition is not served")??;
    Ok(())
}

/// Deletes the definition with every resource, so that somebody else can install one.
///
/// # Errors
/// When it stays.
pub async fn remove_definition(client: &Client) -> Result<()> {
    install_definition(client).await?;
    release_all(client).await?;
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    api.delete("contextmanagers.contextmanager.dev", &DeleteParams::default()).await?;
    definition_gone(client).await
}

/// Waits for the end of a definition that is being deleted.
///
/// # Errors
/// When it stays.
pub async fn definition_gone(client: &Client) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    eventually("the end of the definition", INSTALL, || async {
        let found = api.get_opt("contextmanagers.contextmanager.dev").await?;
        found.is_none().then_some(()).context("it is still there")
    })
    .await
}

/// The definition, marked as the chart's own, so that a chart that is installed later adopts it.
///
/// # Errors
/// Never: the definition is JSON before and after.
pub fn definition() -> Result<CustomResourceDefinition> {
    let mut definition = json!(context_manager_crds::crd());
    definition["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "Helm"});
    definition["metadata"]["annotations"] = json!({
        "meta.helm.sh/release-name": "context-manager",
        "meta.helm.sh/release-namespace": "context-manager-system",
        "helm.sh/resource-policy": "keep",
    });
    Ok(serde_json::from_value(definition)?)
}

/// The type of `ContextManager`, for objects that the typed crate would refuse to hold.
#[must_use]
pub fn resource_type() -> ApiResource {
    ApiResource::erase::<ContextManager>(&())
}

/// Polls until `probe` gives a value.
///
/// # Errors
/// When it does not within `patience`, with what it said last.
pub async fn eventually<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    patience: Duration,
    mut probe: impl FnMut() -> F,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > patience => bail!("{what}: not within {patience:?}; at last: {error:#}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A namespace of one test; it is deleted with all that is in it when dropped.
pub struct Namespace {
    client: Client,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Makes a namespace whose name begins with `suite-` and `what`.
    ///
    /// # Errors
    /// When there is no cluster.
    pub async fn create(client: &Client, what: &str, labels: &[(&str, &str)]) -> Result<Self> {
        let mut suffix = rand::rng();
        let name = format!("suite-{what}-{:06x}", suffix.random::<u32>() & 0xff_ffff);
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let object = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))?;
        let namespaces = Api::<NamespaceObject>::all(client.clone());
        namespaces.create(&PostParams::default(), &object).await.context("failed to make a namespace")?;
        let namespace = Self { client: client.clone(), name };
        // The ServiceAccount admission plugin refuses pods until a controller has made the account.
        let accounts = namespace.api::<k8s_openapi::api::core::v1::ServiceAccount>();
        eventually("the default ServiceAccount", INSTALL, || accounts.get("default")).await?;
        Ok(namespace)
    }

    /// Objects of a type in this namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// `ContextManager`s of this namespace as JSON.
    #[must_use]
    pub fn resources(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &resource_type())
    }

    /// Makes a `ContextManager`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn make_resource(&self, name: &str, spec: Value) -> Result<ContextManager> {
        self.make(&json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// Makes an object from JSON.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn make<K>(&self, object: &Value) -> Result<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(with_type::<K>(object))?;
        Ok(self.api::<K>().create(&PostParams::default(), &object).await?)
    }

    /// What becomes of a pod, without making it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn try_pod(&self, pod: &Value) -> kube::Result<Pod> {
        let pod: Pod = serde_json::from_value(pod.clone()).map_err(kube::Error::SerdeError)?;
        self.api::<Pod>().create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let name = self.name.clone();
        // The deletion is only asked for, and not waited for.
        clean_up(&format!("namespace {name}"), async move |client| {
            release(&client, &name).await?;
            let namespaces = Api::<NamespaceObject>::all(client);
            namespaces.delete(&name, &DeleteParams::default()).await?;
            Ok(())
        });
    }
}

/// Deletes something at the end of a test, whose own runtime may be ending; says so if that fails.
pub fn clean_up<F>(what: &str, deletion: F)
where
    F: AsyncFnOnce(Client) -> Result<()> + Send + 'static,
{
    let deleted = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { deletion(client().await?).await })
    });
    if let Ok(Err(error)) = deleted.join() {
        eprintln!("failed to delete {what}: {error:#}");
    }
}

/// Deletes every resource of the cluster without what keeps it.
///
/// # Errors
/// When the API server refuses it.
pub async fn release_all(client: &Client) -> Result<()> {
    let all = Api::<DynamicObject>::all_with(client.clone(), &resource_type()).list(&ListParams::default()).await?;
    let namespaces: BTreeSet<_> = all.items.into_iter().filter_map(|object| object.metadata.namespace).collect();
    for namespace in namespaces {
        release(client, &namespace).await?;
    }
    Ok(())
}

/// Deletes the resources of a namespace without what keeps them: the server they wait for, or the controller, may be gone.
async fn release(client: &Client, namespace: &str) -> Result<()> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource_type());
    let Ok(all) = api.list(&ListParams::default()).await else { return Ok(()) };
    for object in all.items.into_iter().filter(|object| object.metadata.finalizers.is_some()) {
        let Some(name) = object.metadata.name else { continue };
        api.delete(&name, &DeleteParams::default()).await?;
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        match api.patch(&name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            patched => drop(patched?),
        }
    }
    Ok(())
}

/// Type and version are needed where an object is written as a whole.
fn with_type<K: kube::Resource<DynamicType = ()>>(object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    object
}

/// What the API server says when it refuses.
///
/// # Errors
/// When it did not refuse, or could not be asked.
pub fn refusal<T>(outcome: kube::Result<T>) -> Result<String> {
    match outcome {
        Ok(_) => bail!("the API server accepted it"),
        Err(kube::Error::Api(status)) => Ok(status.message.clone()),
        Err(error) => Err(error).context("the API server did not answer"),
    }
}

/// Runs kubectl on the cluster; what it printed.
///
/// # Errors
/// When it fails, with what it said.
pub async fn kubectl(arguments: &[&str]) -> Result<String> {
    let program = std::env::var_os(KUBECTL).unwrap_or_else(|| "kubectl".into());
    let mut command = tokio::process::Command::new(&program);
    command.args(arguments).env("KUBECONFIG", kubeconfig()?);
    let output = command.output().await.with_context(|| format!("failed to start {}", program.display()))?;
    if !output.status.success() {
        bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
