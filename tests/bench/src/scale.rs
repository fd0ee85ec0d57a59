//! Many resources and many pods: how long until they are known, what they cost the API server, and what the operator's programs
//! take meanwhile. The pods are kwok's, the API server, the controller and the webhook are the real ones.

mod kwok;
mod requests;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    objects::{annotated, asking},
    operator::{HOME, condition, make_home},
    program::Operator,
    rights::{Rules, User},
    webhook::{Registration, dead_address, sidecar_image},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use crate::{figure::Figures, part, process::Memory};
use kwok::Nodes;
use requests::Requests;

/// How long is waited for anything.
const PATIENCE: Duration = Duration::from_mins(10);
/// Time between two looks at what is not there yet. Looking is work for the API server too.
const LOOK: Duration = Duration::from_secs(1);
/// How many objects are created at a time.
const AT_A_TIME: usize = 16;
const NAMESPACES: usize = 20;
/// What the programs may take, in mebibytes.
const CONTROLLER: f64 = 40.0;
const WEBHOOK: f64 = 20.0;
/// How long the controller is watched while nothing changes: each resource is looked at once in it.
const STILL: Duration = Duration::from_secs(70);

/// How many there are.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Resources in the whole cluster.
    pub resources: usize,
    /// Pods, spread over the resources.
    pub pods: usize,
}

/// Provisions resources, creates pods, and restarts the controller among them.
pub async fn measure(figures: &mut Figures, extent: Extent) -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    make_home(&client).await?;
    let nodes = Nodes::start(&client).await?;
    let address = dead_address()?;
    let webhook_home = Namespace::create(&client, "scale-webhook", &[]).await?;
    let registration = Registration::create(&client, &[&webhook_home.name], address).await?;
    let folder = tempfile::tempdir()?;
    let webhook = part::webhook(folder.path(), &webhook_home.name, &address.to_string()).await?;
    let user = User::create(&client, HOME, &Rules::of("controller", &webhook_home.name)?).await?;
    let requests = Requests::of(&client, user.name()).await?;
    let kubeconfig = folder.path().join("kubeconfig");
    part::kubeconfig_of(user.name(), &kubeconfig)?;
    let start = || controller(folder.path(), &kubeconfig, &webhook_home.name);

    let mut namespaces = Vec::with_capacity(NAMESPACES);
    for number in 0..NAMESPACES {
        namespaces.push(registration.namespace(&client, &format!("scale-{number}"), &[]).await?);
    }
    let site = Site { client, namespaces, nodes };
    let controller = start().await?;
    let resources = extent.resources;
    let before = requests.count().await?;
    let since = Instant::now();
    eprintln!("{resources} resources");
    site.make_resources(resources).await?;
    site.wait_for(resources, "ready", is_ready).await?;
    let count = requests.count().await?.since(before);
    figures.add(format!("{resources} resources, all Ready"), since.elapsed().as_secs_f64(), "s");
    figures.add(format!("{resources} resources, reads of the controller for each"), each(count.reads, resources), "");
    figures.add(format!("{resources} resources, writes of the controller for each"), each(count.writes, resources), "");
    memory(figures, &format!("controller, {resources} resources"), &controller, CONTROLLER)?;

    let pods = extent.pods;
    eprintln!("{pods} pods");
    let since = Instant::now();
    site.make_pods(resources, pods).await?;
    figures.add(format!("{pods} pods, created with injection"), per_second(pods, since.elapsed()), "1/s");
    let each_has = i32::try_from(pods / resources)?;
    site.wait_for(resources, "counted", |resource| has(resource, each_has)).await?;
    figures.add(
        format!("{pods} pods, all known as ready, since the first creation"),
        since.elapsed().as_secs_f64(),
        "s",
    );
    memory(figures, &format!("controller, {pods} pods"), &controller, CONTROLLER)?;
    memory(figures, &format!("webhook, after {pods} pods"), &webhook, WEBHOOK)?;

    eprintln!("nothing changes");
    let before = requests.count().await?;
    tokio::time::sleep(STILL).await;
    let count = requests.count().await?.since(before);
    figures.add(
        format!("{pods} pods, reads of an idle controller"),
        per_second(usize::try_from(count.reads)?, STILL),
        "1/s",
    );
    figures.at_most(format!("{pods} pods, writes of an idle controller"), each(count.writes, 1), "", 0.0);

    eprintln!("a restart");
    let versions = site.versions().await?;
    drop(controller);
    let before = requests.count().await?;
    let since = Instant::now();
    let controller = start().await?;
    eventually("a look at every resource", PATIENCE, || async {
        let looked = part::metric(&controller, "context_manager_reconcile_duration_seconds_count").await?;
        ensure!(looked >= each(u64::try_from(resources)?, 1), "{looked} of {resources}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let count = requests.count().await?.since(before);
    figures.add(format!("{resources} resources, looked at after a restart"), since.elapsed().as_secs_f64(), "s");
    figures.add(format!("{resources} resources, reads of a restart"), each(count.reads, resources), "each");
    figures.at_most(format!("{resources} resources, writes of a restart"), each(count.writes, 1), "", 0.0);
    let changed =
        site.versions().await?.iter().filter(|(object, version)| versions.get(*object) != Some(version)).count();
    figures.at_most(
        format!("{resources} resources, objects that a restart changed"),
        each(u64::try_from(changed)?, 1),
        "",
        0.0,
    );
    memory(figures, &format!("controller, restarted, {pods} pods"), &controller, CONTROLLER)?;
    drop((controller, webhook));
    site.remove_pods().await
}

async fn controller(folder: &Path, kubeconfig: &Path, configuration: &str) -> Result<Operator> {
    let instance = uuid::Uuid::new_v4().to_string();
    let flags = [
        ["--namespace", HOME],
        ["--webhook-configuration", configuration],
        ["--sidecar-image", &sidecar_image()],
        ["--instance", &instance],
        ["--sweep", "off"],
    ];
    let part = part::start(&[&["controller"], flags.as_flattened()].concat(), folder, kubeconfig).await?;
    eventually("the controller's lease", PATIENCE, || async {
        ensure!(part::metric(&part, "context_manager_leader").await? > 0.0, "another one has it");
        Ok::<_, anyhow::Error>(())
    })
    .await
    .context("is Context Manager installed in this cluster? end it by `cargo xtask demo --clean`")?;
    Ok(part)
}

fn memory(figures: &mut Figures, what: &str, part: &Operator, most: f64) -> Result<()> {
    let memory = Memory::of(part.id())?;
    figures.at_most(format!("{what}, resident memory"), memory.resident, "MiB", most);
    figures.add(format!("{what}, anonymous memory"), memory.anonymous, "MiB");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "numbers of requests and objects")]
fn each(count: u64, objects: usize) -> f64 {
    count as f64 / objects as f64
}

#[expect(clippy::cast_precision_loss, reason = "numbers of requests and objects")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn is_ready(resource: &ContextManager) -> bool {
    condition(resource, "Ready").is_some_and(|said| said.status == "True")
}

fn has(resource: &ContextManager, pods: i32) -> bool {
    let counted = resource.status.as_ref().and_then(|status| status.pods.as_ref());
    counted.is_some_and(|counted| (counted.injected, counted.ready) == (pods, pods))
}

/// Where resources and pods are.
struct Site {
    client: Client,
    namespaces: Vec<Namespace>,
    nodes: Nodes,
}

impl Site {
    /// Place and name of a resource.
    fn resource(&self, number: usize) -> (&Namespace, String) {
        (&self.namespaces[number % self.namespaces.len()], format!("memory-{number}"))
    }

    async fn make_resources(&self, resources: usize) -> Result<()> {
        stream::iter(0..resources)
            .map(async |number| {
                let (namespace, name) = self.resource(number);
                namespace.make_resource(&name, json!({})).await.map(drop)
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await
    }

    async fn make_pods(&self, resources: usize, pods: usize) -> Result<()> {
        stream::iter(0..pods)
            .map(async |number| {
                let (namespace, resource) = self.resource(number % resources);
                let mut pod = annotated(asking(&format!("agent-{number}")), names::NAME, &resource);
                pod["spec"]["nodeSelector"] = json!(null);
                pod["spec"]["nodeName"] = json!(self.nodes.of(number));
                namespace.make::<Pod>(&pod).await.map(drop)
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await
    }

    /// Waits until all resources are so.
    async fn wait_for(&self, resources: usize, what: &str, is_so: impl Fn(&ContextManager) -> bool) -> Result<()> {
        let api = Api::<ContextManager>::all(self.client.clone());
        let since = Instant::now();
        loop {
            let all = api.list(&ListParams::default().match_any()).await?;
            let so = all.items.iter().filter(|resource| is_so(resource)).count();
            if so >= resources {
                return Ok(());
            }
            ensure!(since.elapsed() < PATIENCE, "{so} of {resources} resources are {what} after {PATIENCE:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The resources and all that the controller made for them, with their versions.
    async fn versions(&self) -> Result<BTreeMap<String, String>> {
        let mut versions = BTreeMap::new();
        for namespace in &self.namespaces {
            note(&mut versions, &namespace.api::<ContextManager>()).await?;
            note(&mut versions, &namespace.api::<Secret>()).await?;
            note(&mut versions, &namespace.api::<ConfigMap>()).await?;
        }
        Ok(versions)
    }

    /// A namespace that is deleted with its pods takes long for them; deleted at once, they are no work for it.
    async fn remove_pods(&self) -> Result<()> {
        for namespace in &self.namespaces {
            namespace
                .api::<Pod>()
                .delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default())
                .await?;
        }
        Ok(())
    }
}

async fn note<K>(versions: &mut BTreeMap<String, String>, api: &Api<K>) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    for object in api.list_metadata(&ListParams::default()).await?.items {
        let version = object.resource_version().unwrap_or_default();
        let place = format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any());
        versions.insert(place, version);
    }
    Ok(())
}
